"""The tables of the outbox and the inbox: the same as those of ``promenade_bus_outbox.outbox_tables``."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.db import models
from django.db.models import Index, Q

from promenade_bus_django.outbox.sql import EVENTS, MARKS

__all__ = ["InboxMark", "OutboxEvent", "OutboxPartition", "OutboxRelay"]


class OutboxEvent(models.Model):
    """An event that waits for the relay, that is kept after its delivery, or that the bus has refused."""

    position: models.BigAutoField[int, int] = models.BigAutoField(primary_key=True)
    transaction_id: models.BigIntegerField[int, int] = models.BigIntegerField()
    partition: models.SmallIntegerField[int, int] = models.SmallIntegerField()
    event_id: models.TextField[str, str] = models.TextField()
    topic: models.TextField[str, str] = models.TextField()
    key: models.TextField[str, str] = models.TextField()
    headers: models.TextField[str | None, str | None] = models.TextField(null=True)
    body: models.BinaryField[bytes, bytes] = models.BinaryField()
    written_at: models.DateTimeField[datetime, datetime] = models.DateTimeField()
    delivered_at: models.DateTimeField[datetime | None, datetime | None] = models.DateTimeField(null=True)
    refused_at: models.DateTimeField[datetime | None, datetime | None] = models.DateTimeField(null=True)
    cause: models.TextField[str | None, str | None] = models.TextField(null=True)

    class Meta:
        """The table and its indexes."""

        db_table = EVENTS
        indexes: ClassVar[list[Index]] = [
            Index(
                name="promenade_outbox_waiting",
                fields=["position"],
                condition=Q(delivered_at__isnull=True, refused_at__isnull=True),
            ),
            Index(
                name="promenade_outbox_delivered",
                fields=["delivered_at"],
                condition=Q(delivered_at__isnull=False),
            ),
            Index(
                name="promenade_outbox_refused",
                fields=["key"],
                condition=Q(refused_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event_id} of {self.topic}"


class OutboxPartition(models.Model):
    """A part of the keys, and the relay that delivers their events."""

    partition: models.SmallIntegerField[int, int] = models.SmallIntegerField(primary_key=True)
    owner: models.TextField[str | None, str | None] = models.TextField(null=True)
    heartbeat: models.BigIntegerField[int, int] = models.BigIntegerField()

    class Meta:
        """The table."""

        db_table = "promenade_outbox_partition"

    def __str__(self) -> str:
        return f"partition {self.partition}"


class OutboxRelay(models.Model):
    """A relay that runs."""

    relay: models.TextField[str, str] = models.TextField(primary_key=True)
    heartbeat: models.BigIntegerField[int, int] = models.BigIntegerField()

    class Meta:
        """The table."""

        db_table = "promenade_outbox_relay"

    def __str__(self) -> str:
        return self.relay


class InboxMark(models.Model):
    """An event that a subscription has handled."""

    pk = models.CompositePrimaryKey("service", "subscription", "topic", "event_id")
    service: models.TextField[str, str] = models.TextField()
    subscription: models.TextField[str, str] = models.TextField()
    topic: models.TextField[str, str] = models.TextField()
    event_id: models.TextField[str, str] = models.TextField()
    handled_at: models.DateTimeField[datetime, datetime] = models.DateTimeField()

    class Meta:
        """The table and its index."""

        db_table = MARKS
        indexes: ClassVar[list[Index]] = [Index(name="promenade_inbox_handled", fields=["handled_at"])]

    def __str__(self) -> str:
        return f"{self.event_id} of {self.topic} by {self.subscription}"
