"""Fast checks whether values are in normal form already: expressions, compiled from text per class.

attrs makes its own methods in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any

from bus_core.events import shapes
from bus_core.events.primitives import FrozenMapping
from bus_core.events.shapes import Shape, is_none
from bus_core.events.values import (
    has_plain_offset,
    is_frozen_json,
    is_text,
)

__all__ = ["CheckCompiler"]


class CheckCompiler:
    """Compiles shapes into expressions that are true for values in normal form."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {
            "datetime": datetime,
            "UTC": UTC,
            "FrozenMapping": FrozenMapping,
            "infinity": math.inf,
            "is_text": is_text,
            "has_plain_offset": has_plain_offset,
            "is_frozen_json": is_frozen_json,
            "time_of_day": time_of_day,
        }
        self.functions: list[str] = []
        self._helpers: dict[int, str] = {}

    def name(self, value: Any) -> str:
        """A name for a value inside the expressions."""
        name = f"given{len(self.names)}"
        self.names[name] = value
        return name

    def expression(self, shape: Shape, value: str) -> str:
        """The expression for a variable of that name."""
        if isinstance(shape, shapes.Scalar):
            return self._scalar_expression(shape, value)
        if isinstance(shape, shapes.AnyJson):
            return f"is_frozen_json({value})"
        if isinstance(shape, shapes.EnumMember):
            return f"{value}.__class__ is {self.name(shape.cls)}"
        if isinstance(shape, shapes.LiteralValue):
            known = self.name({(item.__class__, item) for item in shape.values})
            kinds = self.name(tuple({item.__class__ for item in shape.values}))
            return f"({value}.__class__ in {kinds} and ({value}.__class__, {value}) in {known})"
        if isinstance(shape, shapes.Hidden):
            return self.expression(shape.inner, value)
        if isinstance(shape, shapes.Constrained):
            checks = "".join(f" and {self.name(rule.check)}({value})" for rule in shape.rules)
            return f"({self.expression(shape.inner, value)}{checks})"
        if isinstance(shape, shapes.OneOf):
            ordered = sorted(shape.alternatives, key=lambda item: not is_none(item))
            return f"({' or '.join(self.expression(item, value) for item in ordered)})"
        if isinstance(shape, shapes.WithJsonForm):
            return "False"  # it is checked each time whether the value can be written
        return f"{self._helper(shape)}({value})"

    def _scalar_expression(self, shape: shapes.Scalar, value: str) -> str:
        if is_none(shape):
            return f"{value} is None"
        exact = f"{value}.__class__ is {self.name(shape.cls)}"
        if shape.base is str:
            return f"({exact} and ({value}.isascii() or is_text({value})))"
        if shape.base is float:
            return f"({exact} and -infinity < {value} < infinity)"
        if shape.base is datetime:
            return f"({exact} and ({value}.tzinfo is UTC or has_plain_offset({value})))"
        if shape.base is time_of_day:
            return f"({exact} and {value}.tzinfo is None)"
        if shape.base is Decimal:
            return f"({exact} and {value}.is_finite() and -6144 <= {value}.adjusted() <= 6144)"
        return exact

    def _helper(self, shape: Shape) -> str:
        known = self._helpers.get(id(shape))
        if known is not None:
            return known
        helper = self._helpers[id(shape)] = f"fits{len(self._helpers)}"
        lines = [f"def {helper}(value):"]
        if isinstance(shape, shapes.Collection):
            lines += [
                f"    if value.__class__ is not {shape.kind.__name__}:",
                "        return False",
                "    for item in value:",
                f"        if not {self.expression(shape.item, 'item')}:",
                "            return False",
                "    return True",
            ]
        elif isinstance(shape, shapes.MappingOf):
            key, item = self.expression(shape.key, "key"), self.expression(shape.item, "item")
            lines += [
                "    if value.__class__ is not FrozenMapping:",
                "        return False",
                "    for key, item in value.items():",
                f"        if not ({key} and {item}):",
                "            return False",
                "    return True",
            ]
        elif isinstance(shape, shapes.FixedTuple):
            lines += [
                f"    if value.__class__ is not tuple or len(value) != {len(shape.items)}:",
                "        return False",
                f"    {''.join(f'item{index}, ' for index in range(len(shape.items))) or '()'} = value",
            ]
            expressions = [self.expression(item, f"item{index}") for index, item in enumerate(shape.items)]
            lines.append(f"    return {self._all(expressions)}")
        elif isinstance(shape, shapes.RecordShape):
            lines += [
                f"    if value.__class__ is not {self.name(shape.cls)}:",
                "        return False",
            ]
            expressions = []
            for index, field in enumerate(shape.fields):
                lines.append(f"    item{index} = getattr(value, {field.name!r})")
                expressions.append(self.expression(field.shape, f"item{index}"))
            lines.append(f"    return {self._all(expressions)}")
        else:
            assert isinstance(shape, shapes.Recursive), "no other shape is left"
            assert shape.shape is not None, "an alias is complete when it is compiled"
            lines.append(f"    return {self.expression(shape.shape, 'value')}")
        self.functions.append("\n".join(lines))
        return helper

    @staticmethod
    def _all(expressions: Any) -> str:
        return " and ".join(expressions) or "True"

    def misfits(self, expressions: Mapping[str, str]) -> Callable[[Any], tuple[str, ...]]:
        """A function of an object that returns the attributes whose expression is not true for their value.

        The expressions use a variable called ``value``.
        """
        lines = ["def misfits(event):", "    found = ()"]
        for attribute, expression in expressions.items():
            lines += [
                f"    value = event.{attribute}",
                f"    if not ({expression}):",
                f"        found += ({attribute!r},)",
            ]
        lines.append("    return found")
        exec("\n".join([*self.functions, *lines]), self.names)
        misfits: Callable[[Any], tuple[str, ...]] = self.names["misfits"]
        return misfits
