"""The settings of the bus in a Django project."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

__all__ = ["handlers_setting", "source"]


def source() -> str | os.PathLike[str] | Mapping[str, Any]:
    """``PROMENADE_BUS``: the path of the configuration, or a mapping like it.

    Raises ``ImproperlyConfigured`` when it is missing or of another type.
    """
    value: object = getattr(settings, "PROMENADE_BUS", None)
    if not isinstance(value, str | os.PathLike | Mapping):
        raise ImproperlyConfigured(
            "PROMENADE_BUS has to be the path of the bus's configuration file, or a mapping like it, "
            f"got {'nothing' if value is None else type(value).__name__}; set it in the settings"
        )
    return cast("str | os.PathLike[str] | Mapping[str, Any]", value)


def handlers_setting() -> Literal["worker", "servers"]:
    """``PROMENADE_BUS_HANDLERS``: where handlers run if processes share the adapter.

    Raises ``ImproperlyConfigured`` for another value.
    """
    value: Any = getattr(settings, "PROMENADE_BUS_HANDLERS", "worker")
    if value not in ("worker", "servers"):
        raise ImproperlyConfigured(f"PROMENADE_BUS_HANDLERS has to be 'worker' or 'servers', got {value!r}")
    handlers: Literal["worker", "servers"] = value
    return handlers
