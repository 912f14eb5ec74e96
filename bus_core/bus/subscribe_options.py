"""The options of ``Bus.subscribe``, and their checks."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar, overload

import attrs

from bus_core.abc import RetryPolicy, Seconds
from bus_core.dispatch.handlers import is_async
from bus_core.errors import InvalidHandler
from bus_core.events.base import Event
from bus_core.events.messages import Delivery

__all__ = ["CheckedOptions", "SubscribeDecorator", "SubscribeOptions", "default_name"]

E = TypeVar("E", bound=Event[Any])
R = TypeVar("R")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")


class SubscribeOptions(TypedDict, Generic[E], total=False):
    """The options of ``Bus.subscribe`` and ``SyncBus.subscribe``; see there."""

    name: str | None
    mode: Literal["group", "broadcast"]
    concurrency: int | None
    ordered: bool
    retry: RetryPolicy | None
    give_up_on: type[BaseException] | Iterable[type[BaseException]]
    timeout: Seconds | None
    start: Literal["earliest", "latest"] | None
    where: Callable[[E], bool] | None


class SubscribeDecorator(Protocol[E]):
    """The decorator form of ``subscribe``: takes a handler of the topic's events, and returns it."""

    @overload
    def __call__(self, handler: Callable[[E], R], /) -> Callable[[E], R]: ...
    @overload
    def __call__(self, handler: Callable[[E, Delivery], R], /) -> Callable[[E, Delivery], R]: ...


def default_name(qualified_name: str) -> str:
    """The name of a subscription, derived from its handler's qualified name."""
    plain = re.sub(r"[^A-Za-z0-9._:-]", "", qualified_name.replace("<locals>.", ""))
    return plain.lstrip("._:-")[:180] or "handler"


# --- checks of the options --------------------------------------------------------------------------------


def _checked_name(name: object) -> str | None:
    if name is None or (isinstance(name, str) and _NAME.fullmatch(name)):
        return name
    raise InvalidHandler(
        f"invalid subscription name {name!r}: 1 to 200 letters, digits, '.', '_', ':' and '-', "
        "beginning with a letter or digit"
    )


def _one_of(*allowed: str | None) -> Callable[[Any, attrs.Attribute[Any], object], None]:
    def check(_options: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in allowed:
            *others, last = map(repr, allowed)
            raise InvalidHandler(f"{attribute.name} must be {', '.join(others)} or {last}, got {value!r}")

    return check


def _check_bool(_options: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidHandler(f"{attribute.name} must be True or False, got {value!r}")


def _check_concurrency(_options: object, _attribute: object, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidHandler(f"concurrency must be an int of at least 1, got {value!r}")


def _check_retry(_options: object, _attribute: object, value: Any) -> None:
    # A class has the methods of its instances, so a missing pair of parentheses would pass.
    if value is not None and (isinstance(value, type) or not isinstance(value, RetryPolicy)):
        raise InvalidHandler(f"retry takes a retry policy such as ExponentialRetry(...), got {value!r}")


def _check_where(_options: object, _attribute: object, value: Any) -> None:
    if value is None:
        return
    if not callable(value):
        raise InvalidHandler(f"where takes a function of the event, got {value!r}")
    if is_async(value) or inspect.isasyncgenfunction(value):
        raise InvalidHandler("where takes a plain function: the coroutine of an async one is always true")


def _as_seconds(value: Any) -> float | None:
    if value is None:
        return None
    seconds: Any = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InvalidHandler(f"timeout must be a positive number of seconds or a timedelta, got {value!r}")
    return float(seconds)


def _as_error_types(value: Any) -> tuple[type[BaseException], ...]:
    several = isinstance(value, Iterable) and not isinstance(value, type | str)
    types: tuple[Any, ...] = tuple(value) if several else (value,)
    for item in types:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise InvalidHandler(f"give_up_on takes exception classes, got {item!r}")
    return types


@attrs.frozen(kw_only=True)
class CheckedOptions:
    """The checked options of ``subscribe``; raises ``InvalidHandler``."""

    name: str | None = attrs.field(converter=_checked_name)
    mode: Literal["group", "broadcast"] = attrs.field(validator=_one_of("group", "broadcast"))
    concurrency: int | None = attrs.field(validator=_check_concurrency)
    ordered: bool = attrs.field(validator=_check_bool)
    retry: RetryPolicy | None = attrs.field(validator=_check_retry)
    give_up_on: tuple[type[BaseException], ...] = attrs.field(converter=_as_error_types)
    timeout: float | None = attrs.field(converter=_as_seconds)
    start: Literal["earliest", "latest"] | None = attrs.field(validator=_one_of(None, "earliest", "latest"))
    where: Callable[[Any], bool] | None = attrs.field(validator=_check_where)
