"""The setting of the outbox, ``PROMENADE_BUS_OUTBOX``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import attrs
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from bus_core.errors import suggestion
from bus_core.events import nearest_names

__all__ = ["OutboxSettings", "outbox_settings"]

NAME: Final = "PROMENADE_BUS_OUTBOX"


@attrs.frozen(kw_only=True)
class OutboxSettings:
    """``using`` is the alias of the database, and ``relay`` says whether the relay runs beside the bus.

    The others are options of the relay; None leaves them to it.
    """

    using: str = "default"
    relay: bool = True
    batch: int | None = None
    poll: float | timedelta | None = None
    lease: float | timedelta | None = None
    keep: float | timedelta | None = None
    after_refusal: str | None = None

    @property
    def relay_options(self) -> dict[str, Any]:
        """The options that are set, as ``promenade_bus_outbox.Outbox`` takes them."""
        names = ("batch", "poll", "lease", "keep", "after_refusal")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def outbox_settings() -> OutboxSettings:
    """Reads the setting; raises ``ImproperlyConfigured``."""
    given: object = getattr(settings, NAME, {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"{NAME} has to be a mapping, got {type(given).__name__}")
    known = [field.name for field in attrs.fields(OutboxSettings)]
    for key in given:
        if key not in known:
            nearest = suggestion(nearest_names(str(key), known)) or f"; known are: {', '.join(known)}"
            raise ImproperlyConfigured(f"unknown key {key!r} in {NAME}{nearest}")
    found = OutboxSettings(**given)
    if found.using not in connections.settings:
        raise ImproperlyConfigured(f"{NAME} uses the database {found.using!r}, which is not in DATABASES")
    return found
