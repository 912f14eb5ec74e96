"""The shapes in which applications use the bus: what a handler takes, and what its subscription asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

__all__ = ["EVERYDAY", "KEYS", "PLAIN", "SHAPES", "Shape", "subscribers", "with_middleware"]

KEYS: Final = 50
"""Aggregates whose events are ordered, all of them ready."""


def _always(event: Any) -> bool:
    return True


@attrs.frozen
class Shape:
    """One way to use the bus; a plain one has an async handler that takes the event.

    ``at_most`` is what an event may cost, in events of ``asyncio.Queue(1000)`` with 10 tasks;
    ``bytes_at_most`` what it may take while it is queued.
    """

    name: str
    title: str
    at_most: float | None = None
    bytes_at_most: float | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)
    middleware: tuple[Any, ...] = ()
    headers: Mapping[str, str] | None = None
    serializer: str = ""
    keys: int = 1
    subscribers: int = 1
    delivery: bool = False
    pattern: bool = False
    many: bool = False


def with_middleware(many: int, at_most: float) -> Shape:
    """So many middlewares that do nothing."""
    numbers = {1: "one", 2: "two", 5: "five"}
    title = f"{numbers[many]} middleware{'s that do' if many > 1 else ' that does'} nothing"
    chain = tuple(f"pass-{number}" for number in range(1, many + 1))
    return Shape(f"middleware_{many}", title, at_most, 160, middleware=chain)


def subscribers(shape: Shape, many: int) -> Shape:
    """The same shape with so many subscribers of the topic."""
    if many == 1:
        return shape
    return attrs.evolve(
        shape, name=f"{shape.name}_{many}", title=f"{shape.title}, {many} subscribers", subscribers=many
    )


PLAIN: Final = Shape("plain", "plain", 0.5, 24)
EVERYDAY: Final = Shape(
    "everyday", "a delivery through two middlewares", middleware=("pass-1", "pass-2"), delivery=True
)

_TIMEOUT: Final = {"timeout": {"seconds": 30}}

SHAPES: Final = (
    PLAIN,
    Shape("publish_many", "publish_many", many=True),
    Shape("delivery", "takes the delivery", 1.2, delivery=True),
    Shape("pattern", "on a pattern", 1.1, pattern=True),
    Shape("where", "where=", 1.2, options={"where": _always}),
    Shape("headers", "published with a header", 1.5, headers={"tenant": "acme"}),
    with_middleware(1, 1.4),
    with_middleware(2, 1.6),
    with_middleware(5, 2.0),
    Shape("concurrency", "concurrency=4", 1.2, options={"concurrency": 4}),
    Shape("ordered", f"ordered=True, {KEYS} keys", 1.3, options={"ordered": True}, keys=KEYS),
    Shape("timeout_option", "timeout=30", 1.6, options={"timeout": 30.0}),
    Shape("timeout_middleware", "timeout middleware", 2.0, 160, middleware=(_TIMEOUT,)),
    Shape("logging_off", "logging middleware, switched off", 1.5, 160, middleware=("logging",)),
    Shape(
        "all_together",
        "all of these together",
        3.0,
        options={"where": _always, "ordered": True, "concurrency": 4, "timeout": 30.0},
        middleware=("logging", _TIMEOUT, "pass-1"),
        headers={"tenant": "acme"},
        keys=KEYS,
        delivery=True,
        pattern=True,
    ),
    Shape("serialize_json", "serialize: true, json", serializer="json"),
    Shape("serialize_msgspec", "serialize: true, msgspec", serializer="msgspec"),
)
