"""The tables of the outbox and the inbox."""

from collections.abc import Sequence
from typing import ClassVar

from django.db import migrations, models
from django.db.migrations.operations.base import Operation


class Migration(migrations.Migration):
    """Creates them."""

    initial = True

    dependencies: ClassVar[Sequence[tuple[str, str]]] = []

    operations: ClassVar[Sequence[Operation]] = [
        migrations.CreateModel(
            name="OutboxPartition",
            fields=[
                ("partition", models.SmallIntegerField(primary_key=True, serialize=False)),
                ("owner", models.TextField(null=True)),
                ("heartbeat", models.BigIntegerField()),
            ],
            options={
                "db_table": "promenade_outbox_partition",
            },
        ),
        migrations.CreateModel(
            name="OutboxRelay",
            fields=[
                ("relay", models.TextField(primary_key=True, serialize=False)),
                ("heartbeat", models.BigIntegerField()),
            ],
            options={
                "db_table": "promenade_outbox_relay",
            },
        ),
        migrations.CreateModel(
            name="InboxMark",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "service",
                        "subscription",
                        "topic",
                        "event_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("service", models.TextField()),
                ("subscription", models.TextField()),
                ("topic", models.TextField()),
                ("event_id", models.TextField()),
                ("handled_at", models.DateTimeField()),
            ],
            options={
                "db_table": "promenade_inbox",
                "indexes": [models.Index(fields=["handled_at"], name="promenade_inbox_handled")],
            },
        ),
        migrations.CreateModel(
            name="OutboxEvent",
            fields=[
                ("position", models.BigAutoField(primary_key=True, serialize=False)),
                ("transaction_id", models.BigIntegerField()),
                ("partition", models.SmallIntegerField()),
                ("event_id", models.TextField()),
                ("topic", models.TextField()),
                ("key", models.TextField()),
                ("headers", models.TextField(null=True)),
                ("body", models.BinaryField()),
                ("written_at", models.DateTimeField()),
                ("delivered_at", models.DateTimeField(null=True)),
                ("refused_at", models.DateTimeField(null=True)),
                ("cause", models.TextField(null=True)),
            ],
            options={
                "db_table": "promenade_outbox",
                "indexes": [
                    models.Index(
                        condition=models.Q(("delivered_at__isnull", True), ("refused_at__isnull", True)),
                        fields=["position"],
                        name="promenade_outbox_waiting",
                    ),
                    models.Index(
                        condition=models.Q(("delivered_at__isnull", False)),
                        fields=["delivered_at"],
                        name="promenade_outbox_delivered",
                    ),
                    models.Index(
                        condition=models.Q(("refused_at__isnull", False)),
                        fields=["key"],
                        name="promenade_outbox_refused",
                    ),
                ],
            },
        ),
    ]
