"""The system check of the outbox."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from promenade_bus_django.outbox.conf import outbox_settings
from promenade_bus_django.outbox.sql import check_vendor

__all__ = ["check_outbox"]


def check_outbox(app_configs: Any, **_options: Any) -> list[checks.CheckMessage]:
    """Returns the fault of ``PROMENADE_BUS_OUTBOX`` (E004)."""
    try:
        check_vendor(connections[outbox_settings().using])
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="promenade_bus.E004")]
    return []
