"""Validators for the bounds of options."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["whole_number"]


def whole_number(low: int, high: int) -> Any:
    """A validator of attrs for an int from ``low`` to ``high``, both included, that is no bool."""
    return [
        attrs.validators.instance_of(int),
        attrs.validators.not_(attrs.validators.instance_of(bool)),
        attrs.validators.ge(low),
        attrs.validators.le(high),
    ]
