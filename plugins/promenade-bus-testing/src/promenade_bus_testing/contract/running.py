"""The decorator of contract tests: required features, and an event loop for each test."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, ParamSpec

import attrs
import pytest

from promenade_bus_testing.contract.harness import Harness, Suite
from promenade_bus_testing.contract.places import Place
from promenade_bus_testing.contract_plugin import NOT_APPLICABLE

__all__ = ["Needs", "contract", "needs_of"]

P = ParamSpec("P")

_MARK = "__promenade_contract__"


@attrs.frozen
class Needs:
    """The requirements of a test on an adapter."""

    features: tuple[str, ...] = ()
    not_features: tuple[str, ...] = ()
    hook: str | None = None

    def missing(self, suite: Suite) -> str | None:
        """Returns the reason why the test does not apply to an adapter, or None."""
        for feature in self.features:
            if not getattr(suite.features, feature):
                return f"needs feature {feature!r}"
        for feature in self.not_features:
            if getattr(suite.features, feature):
                return f"is about adapters without feature {feature!r}"
        if self.hook is not None and not suite.has_hook(self.hook):
            return f"needs the hook {self.hook}()"
        return None

    def __str__(self) -> str:
        parts = [f"`{feature}`" for feature in self.features]
        parts += [f"not `{feature}`" for feature in self.not_features]
        parts += [f"`{self.hook}()`"] if self.hook else []
        return ", ".join(parts)


def contract(
    *needs: str, without: Sequence[str] | str = (), hook: str | None = None
) -> Callable[[Callable[Concatenate[Any, Harness, P], Awaitable[None]]], Callable[..., None]]:
    """Makes a contract test from a coroutine function that takes a ``Harness``.

    The test applies to adapters that claim each feature of ``needs`` and none of ``without``, and whose class
    overrides ``hook``. It runs on its own event loop, so no plugin for async tests is needed.
    """
    applies = Needs(needs, (without,) if isinstance(without, str) else tuple(without), hook)

    def decorate(test: Callable[Concatenate[Any, Harness, P], Awaitable[None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(self: Suite, contract_place: Place, *args: P.args, **kwargs: P.kwargs) -> None:
            __tracebackhide__ = True
            reason = applies.missing(self)
            if reason is not None:
                pytest.skip(f"{NOT_APPLICABLE}: {reason}")
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(_with_harness(self, contract_place, functools.partial(test, self), args, kwargs))

        own, _harness, *others = inspect.signature(test).parameters.values()
        place = inspect.Parameter("contract_place", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        run.__signature__ = inspect.Signature([own, place, *others])  # type: ignore[attr-defined]
        setattr(run, _MARK, applies)
        return run

    return decorate


_STRESS = 10
"""The factor for time limits in a stress run, which does more in each test and runs several processes."""


async def _with_harness(
    suite: Suite,
    place: Place,
    test: Callable[..., Awaitable[None]],
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> None:
    __tracebackhide__ = True
    async with asyncio.timeout(suite.longest_test * (_STRESS if place.stress else 1)):
        try:
            async with Harness(suite, place) as harness:
                await test(harness, *args, **kwargs)
        finally:
            await suite.dispose(place)


def needs_of(test: object) -> Needs | None:
    """Returns the requirements of a contract test, or None for any other object."""
    found: Needs | None = getattr(test, _MARK, None)
    return found
