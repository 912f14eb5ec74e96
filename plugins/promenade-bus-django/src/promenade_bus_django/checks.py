"""The system checks of ``manage.py check``: every fault of the settings of the bus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from bus_core import ConfigError, check_config
from promenade_bus_django import conf

__all__ = ["check_settings"]


def check_settings(app_configs: Any, **_options: Any) -> list[checks.CheckMessage]:
    """Returns the faults of ``PROMENADE_BUS`` (E001, E002) and of ``PROMENADE_BUS_HANDLERS`` (E003)."""
    found: list[checks.CheckMessage] = []
    source = _checked(conf.source, "promenade_bus.E001", found)
    if source is not None:
        try:
            faults = check_config(source)
        except ConfigError as error:
            faults = [str(error)]
        found += [checks.Error(fault, id="promenade_bus.E002") for fault in faults]
    _checked(conf.handlers_setting, "promenade_bus.E003", found)
    return found


def _checked(read: Callable[[], Any], identifier: str, found: list[checks.CheckMessage]) -> Any:
    try:
        return read()
    except ImproperlyConfigured as error:
        found.append(checks.Error(str(error), id=identifier))
        return None
