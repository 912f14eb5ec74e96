"""Inspects a handler once, when it is subscribed, so that nothing is guessed per event."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import typing
from collections.abc import Callable
from contextlib import suppress
from types import CodeType
from typing import Any

import attrs

from bus_core.errors import InvalidHandler

__all__ = ["HandlerShape", "event_class_of", "inspect_handler", "is_async"]


@attrs.frozen
class HandlerShape:
    """The calling convention of a handler, its name, and the place of its code, which one in C lacks."""

    is_async: bool
    takes_delivery: bool
    qualified_name: str
    place: str | None


def inspect_handler(handler: Callable[..., Any]) -> HandlerShape:
    """Inspects how to call a handler: ``handler(event)`` or ``handler(event, delivery)``.

    Only required positional parameters count; parameters with defaults are never filled. Raises
    ``InvalidHandler`` for an object that is not callable or requires anything else.
    """
    if not callable(handler):
        raise InvalidHandler(f"a handler is a function or another callable, got {handler!r}")
    name = _qualified_name(handler)
    place = _place(handler)
    if isinstance(handler, type):
        raise InvalidHandler(f"the handler {name} is a class; subscribe an instance, or a method of one")
    if _any_of(handler, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise InvalidHandler(f"the handler {name} is a generator: calling it runs nothing; it must not yield")
    try:
        parameters = inspect.signature(handler, follow_wrapped=not _dispatches(handler)).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return HandlerShape(is_async(handler), takes_delivery=False, qualified_name=name, place=place)
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
    return HandlerShape(
        is_async(handler), takes_delivery=len(positional) == 2, qualified_name=name, place=place
    )


class _Sample:
    @functools.singledispatchmethod
    def method(self, event: object) -> None: ...


def _dispatches(handler: Callable[..., Any]) -> bool:
    """True for a bound ``functools.singledispatchmethod``: it wraps a function that takes ``self``."""
    return _inside(handler) is _inside(_Sample().method)


def _inside(handler: Any) -> object:
    return getattr(handler, "__code__", type(handler))


def event_class_of(handler: Callable[..., Any]) -> type | None:
    """The class that a handler's annotation names; None where it is unknown, or not a single class."""
    while isinstance(handler, functools.partial):
        if handler.args:
            return None
        handler = handler.func
    function = handler if inspect.isroutine(handler) else getattr(handler, "__call__", None)  # noqa: B004
    if function is None or _dispatches(handler):
        return None
    try:
        first = next(iter(inspect.signature(handler).parameters))
        found: object = typing.get_type_hints(inspect.unwrap(function)).get(first)
    except Exception:  # annotations may be anything, and may name imports that only type checkers see
        return None
    return found if isinstance(found, type) else None


def _any_of(handler: Callable[..., Any], *tests: Callable[[Any], bool]) -> bool:
    """True when a test holds for the function behind a handler, which may be a partial or an object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if _dispatches(handler):
        handler = inspect.unwrap(handler)
    call = getattr(handler, "__call__", None)  # noqa: B004 - what runs, not whether anything does
    return any(test(handler) or test(call) for test in tests)


def is_async(handler: Callable[..., Any]) -> bool:
    """True when a call returns a coroutine, as far as one can see, also of a partial or an object."""
    # Before 3.12 only asyncio recognizes an AsyncMock.
    also = () if sys.version_info >= (3, 12) else (asyncio.iscoroutinefunction,)
    return _any_of(handler, inspect.iscoroutinefunction, *also)


def _qualified_name(handler: Any) -> str:
    while isinstance(handler, functools.partial):
        handler = handler.func
    owner = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{owner.__module__}.{owner.__qualname__}"


def _place(handler: Any) -> str | None:
    """The place of the function behind a handler, as ``file:line in function``."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    is_function = inspect.isroutine(handler)
    function: Any = handler if is_function else getattr(handler, "__call__", None)  # noqa: B004
    with suppress(ValueError):  # a function that says it wraps itself
        function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if type(code) is not CodeType:
        return None
    return f"{code.co_filename}:{code.co_firstlineno} in {code.co_name}"
