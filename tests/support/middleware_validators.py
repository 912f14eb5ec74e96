"""Validators that tests name in a configuration."""

from __future__ import annotations

from typing import Any

from bus_core import BaseEvent

__all__ = ["check_order", "in_async", "is_good"]


def check_order(event: BaseEvent) -> None:
    """Refuses events without lines."""
    if not event.data.get("lines"):
        raise ValueError("an order has lines")


def is_good(_event: Any) -> bool:
    """Refuses every event."""
    return False


async def in_async(_event: Any) -> None:
    """Cannot be a validator."""
