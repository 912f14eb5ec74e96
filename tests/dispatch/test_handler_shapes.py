from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from bus_core import (
    Delivery,
    Event,
    InvalidHandler,
)
from support.buses import HAPPENED, Happened, happened, make_bus, running_bus
from support.handlers import Collecting, ignore

Seen = list[tuple[Any, ...]]


def _async_function(seen: Seen) -> Callable[..., Any]:
    async def handle(event: Happened) -> None:
        seen.append((event,))

    return handle


def _async_function_with_delivery(seen: Seen) -> Callable[..., Any]:
    async def handle(event: Happened, delivery: Delivery) -> None:
        seen.append((event, delivery))

    return handle


def _sync_function(seen: Seen) -> Callable[..., Any]:
    def handle(event: Happened) -> None:
        seen.append((event,))

    return handle


def _sync_function_with_delivery(seen: Seen) -> Callable[..., Any]:
    def handle(event: Happened, delivery: Delivery, /) -> None:
        seen.append((event, delivery))

    return handle


def _default_is_not_filled(seen: Seen) -> Callable[..., Any]:
    async def handle(event: Happened, delivery: Delivery | None = None) -> None:
        seen.append((event,) if delivery is None else ("filled",))

    return handle


def _two_required_and_defaults(seen: Seen) -> Callable[..., Any]:
    async def handle(event: Happened, meta: Delivery, retries: int = 3, *, flag: bool = False) -> None:
        seen.append((event, meta) if (retries, flag) == (3, False) else ("filled",))

    return handle


def _any_number(seen: Seen) -> Callable[..., Any]:
    async def handle(*arguments: Any, **options: Any) -> None:
        seen.append(arguments if not options else ("options",))

    return handle


def _one_and_any_number(seen: Seen) -> Callable[..., Any]:
    async def handle(event: Happened, *rest: Any) -> None:
        seen.append((event, *rest))

    return handle


def _bound_method(seen: Seen) -> Callable[..., Any]:
    class Service:
        async def handle(self, event: Happened, delivery: Delivery) -> None:
            seen.append((event, delivery))

    return Service().handle


def _class_method(seen: Seen) -> Callable[..., Any]:
    class Service:
        @classmethod
        async def handle(cls, event: Happened) -> None:
            seen.append((event,))

    return Service.handle


def _static_method(seen: Seen) -> Callable[..., Any]:
    class Service:
        @staticmethod
        def handle(event: Happened) -> None:
            seen.append((event,))

    return Service.handle


def _partial(seen: Seen) -> Callable[..., Any]:
    async def handle(first: str, event: Happened, *, last: str) -> None:
        seen.append((event,) if (first, last) == ("first", "last") else ("wrong",))

    return functools.partial(functools.partial(handle, "first"), last="last")


def _partial_of_a_method(seen: Seen) -> Callable[..., Any]:
    class Service:
        async def handle(self, first: str, event: Happened, delivery: Delivery) -> None:
            seen.append((event, delivery))

    return functools.partial(Service().handle, "first")


def _async_object(seen: Seen) -> Callable[..., Any]:
    class Service:
        async def __call__(self, event: Happened) -> None:
            seen.append((event,))

    return Service()


def _sync_object(seen: Seen) -> Callable[..., Any]:
    class Service:
        def __call__(self, event: Happened, delivery: Delivery) -> None:
            seen.append((event, delivery))

    return Service()


def _lambda_that_returns_a_coroutine(seen: Seen) -> Callable[..., Any]:
    handle = _async_function(seen)
    return lambda event: handle(event)


def _wrapped_by_a_sync_function(seen: Seen) -> Callable[..., Any]:
    handle = _async_function_with_delivery(seen)

    @functools.wraps(handle)
    def wrapper(*arguments: Any) -> Awaitable[None]:
        return handle(*arguments)

    return wrapper


def _builtin(seen: Seen) -> Callable[..., Any]:
    class Sink(list[Any]):
        def append(self, item: Any, /) -> None:
            seen.append((item,))

    return Sink().append


SHAPES = [
    (_async_function, 1),
    (_async_function_with_delivery, 2),
    (_sync_function, 1),
    (_sync_function_with_delivery, 2),
    (_default_is_not_filled, 1),
    (_two_required_and_defaults, 2),
    (_any_number, 1),
    (_one_and_any_number, 1),
    (_bound_method, 2),
    (_class_method, 1),
    (_static_method, 1),
    (_partial, 1),
    (_partial_of_a_method, 2),
    (_async_object, 1),
    (_sync_object, 2),
    (_lambda_that_returns_a_coroutine, 1),
    (_wrapped_by_a_sync_function, 2),
    (_builtin, 1),
]


@pytest.mark.parametrize(("make", "arguments"), SHAPES, ids=[make.__name__.strip("_") for make, _ in SHAPES])
async def test_shapes(make: Callable[[Seen], Callable[..., Any]], arguments: int) -> None:
    """A handler gets as many arguments as it requires: the event, or the event and the delivery."""
    seen: Seen = []
    async with running_bus() as bus:
        bus.subscribe(HAPPENED, make(seen), name="shape")
        published = happened(1)
        await bus.publish(HAPPENED, published)
        await bus.drain()
    ((event, *rest),) = seen
    assert event is published
    assert len(rest) == arguments - 1
    assert all(isinstance(item, Delivery) and item.subscription == "shape" for item in rest)


@pytest.mark.parametrize("kind", [AsyncMock, Mock, MagicMock])
async def test_mocks(kind: type[Mock]) -> None:
    """Mocks of both kinds are handlers; the coroutine of an AsyncMock is awaited."""
    mock = kind(return_value=None)
    async with running_bus() as bus:
        bus.subscribe(HAPPENED, mock, name="mock")
        published = happened(1)
        await bus.publish(HAPPENED, published)
        await bus.drain()
        mock.assert_called_once_with(published)
        if isinstance(mock, AsyncMock):
            mock.assert_awaited_once_with(published)


async def test_a_function_written_in_c() -> None:
    """A builtin is a handler, even one that shows no signature."""
    seen: list[Any] = []
    async with running_bus() as bus:
        bus.subscribe(HAPPENED, seen.append)
        published = happened(1)
        await bus.publish(HAPPENED, published)
        await bus.drain()
    assert seen == [published]


async def test_sync_handlers_run_in_threads() -> None:
    """Sync handlers run in threads of their own, several at once, so that they do not block the loop."""
    both_at_work = threading.Barrier(2)
    threads: set[threading.Thread] = set()

    def work(event: Happened) -> None:
        threads.add(threading.current_thread())
        both_at_work.wait(10)

    async with running_bus() as bus:
        bus.subscribe(HAPPENED, work)
        await bus.publish(HAPPENED, happened(1))
        await bus.publish(HAPPENED, happened(2))
        await bus.drain()
    assert len(threads) == 2
    assert threading.current_thread() not in threads


def _keyword_only(event: Event, *, flag: bool) -> None: ...
def _three(event: Event, delivery: Delivery, third: int) -> None: ...
def _none() -> None: ...
def _only_defaults(event: Event | None = None) -> None: ...


def _generator(event: Event) -> Iterator[int]:
    yield 1


async def _async_generator(event: Event) -> AsyncIterator[int]:
    yield 1


class _Generating:
    def __call__(self, event: Event) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        ("text", "a handler is a function or another callable, got 'text'"),
        (5, "got 5"),
        (_keyword_only, "requires keyword arguments (flag); give them defaults or bind them with"),
        (_three, "requires 3 arguments; the bus passes (event) or (event, delivery)"),
        (_none, "has no required argument"),
        (_only_defaults, "never fills a parameter that has a default"),
        (functools.partial(_sync_function([]), None), "has no required argument"),
        (_generator, "is a generator: calling it runs nothing; it must not yield"),
        (_async_generator, "is a generator"),
        (functools.partial(_async_generator), "is a generator"),
        (_Generating(), "is a generator"),
        (Collecting, "Collecting is a class; subscribe an instance, or a method of one"),
        (Collecting.collect, "Collecting.collect is a method without its object; subscribe the bound method"),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__) if callable(value) else "",
)
def test_invalid_handlers(handler: Any, message: str) -> None:
    """A handler that takes no event, or would do nothing, is refused with the reason, in both forms."""
    bus = make_bus()
    with pytest.raises(InvalidHandler) as caught:
        bus.subscribe(HAPPENED, handler, name="bad")
    assert message in str(caught.value)
    with pytest.raises(InvalidHandler):
        bus.subscribe(HAPPENED, name="bad")(handler)
    assert bus.subscriptions == ()


async def test_a_coroutine_is_no_handler() -> None:
    """A coroutine, made by calling the handler by mistake, is refused."""
    coroutine = ignore(happened())
    with pytest.raises(InvalidHandler, match="a handler is a function or another callable"):
        make_bus().subscribe(HAPPENED, coroutine)  # type: ignore[call-overload]  # pyright: ignore
    coroutine.close()
