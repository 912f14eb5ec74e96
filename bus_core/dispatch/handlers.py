"""Looks at a handler once, when it is subscribed, so that nothing has to be guessed per event."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import attrs

from bus_core.errors import InvalidHandler

__all__ = ["HandlerShape", "inspect_handler"]


@attrs.frozen
class HandlerShape:
    """How to call a handler."""

    is_async: bool
    takes_delivery: bool
    qualified_name: str


def inspect_handler(handler: Callable[..., Any]) -> HandlerShape:
    """Finds out how to call a handler: ``handler(event)`` or ``handler(event, delivery)``.

    Only required positional parameters count; those with defaults are never filled. Raises
    ``InvalidHandler`` for what is not callable or requires anything else.
    """
    if not callable(handler):
        raise InvalidHandler(f"a handler is a function or another callable, got {handler!r}")
    name = _qualified_name(handler)
    if isinstance(handler, type):
        raise InvalidHandler(f"the handler {name} is a class; subscribe an instance, or a method of one")
    if _any_of(handler, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise InvalidHandler(f"the handler {name} is a generator: calling it runs nothing; it must not yield")
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # some callables written in C show no signature
        return HandlerShape(_is_async(handler), takes_delivery=False, qualified_name=name)
    required = [p for p in parameters if p.default is p.empty]
    positional = [p for p in required if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keyword_only = [p.name for p in required if p.kind is p.KEYWORD_ONLY]
    accepts_any = any(p.kind is p.VAR_POSITIONAL for p in required)
    if keyword_only:
        raise InvalidHandler(
            f"the handler {name} requires keyword arguments ({', '.join(keyword_only)}); "
            "give them defaults or bind them with functools.partial"
        )
    if positional and positional[0].name == "self" and inspect.isfunction(handler):
        raise InvalidHandler(f"the handler {name} is a method without its object; subscribe the bound method")
    if len(positional) > 2:
        raise InvalidHandler(
            f"the handler {name} requires {len(positional)} arguments; "
            "the bus passes (event) or (event, delivery)"
        )
    if not positional and not accepts_any:
        raise InvalidHandler(
            f"the handler {name} has no required argument; the bus passes (event) or (event, delivery), "
            "and never fills a parameter that has a default"
        )
    return HandlerShape(_is_async(handler), takes_delivery=len(positional) == 2, qualified_name=name)


def _any_of(handler: Callable[..., Any], *tests: Callable[[Any], bool]) -> bool:
    """Whether a test holds for the function behind a handler, be it in a partial or an object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    call = getattr(handler, "__call__", None)  # noqa: B004 - what runs, not whether anything does
    return any(test(handler) or test(call) for test in tests)


def _is_async(handler: Callable[..., Any]) -> bool:
    # Before 3.12 only asyncio knows the mark of an AsyncMock.
    also = () if sys.version_info >= (3, 12) else (asyncio.iscoroutinefunction,)
    return _any_of(handler, inspect.iscoroutinefunction, *also)


def _qualified_name(handler: Any) -> str:
    while isinstance(handler, functools.partial):
        handler = handler.func
    owner = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{owner.__module__}.{owner.__qualname__}"
