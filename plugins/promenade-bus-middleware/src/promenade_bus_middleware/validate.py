"""Calls a function of the application with each event, which may refuse it.

The function takes the event. It refuses the event by raising an exception, or by returning False. In the
publish chain the caller of ``publish`` gets ``PublishFailed``, with the exception as its cause. In the
consume chain the attempt fails with ``PermanentError``, and the event becomes a dead letter at once.

Guarantees. A refused event was not published by this call, and no handler inside of the middleware has seen
it. There is no state: after a kill, the redelivery is checked again. The function must not wait: it blocks
the event loop.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

from bus_core import Envelope, Handler, Middleware, PermanentError, PublishFailed, WatchedMiddleware
from promenade_bus_middleware.config import ValidateOptions
from promenade_bus_middleware.topics import ChosenTopics

__all__ = ["Validate"]

Validator = Callable[[Any], object]

REFUSED: Final = "refused"
OTHER: Final = "(other)"

_MOST_SUBJECTS: Final = 1000
"""The number of topics that are counted apart."""


class Validate(WatchedMiddleware):
    """The middleware ``validate``. Raises ``ImportError`` when there is no such function."""

    def __init__(self, options: ValidateOptions) -> None:
        self._name = options.validator
        self._validator = _find(options.validator)
        self._topics = ChosenTopics(options.topics)
        self._counts: Counter[tuple[str, str]] = Counter()

    def counts(self) -> Mapping[tuple[str, str], int]:
        return self._counts

    def of_topic(self, topic: str) -> Middleware | None:
        """Leaves out topics that are not chosen."""
        return self if topic in self._topics else None

    def __call__(self, handler: Handler) -> Handler:
        async def validated(envelope: Envelope) -> None:
            if envelope.topic in self._topics:
                self._check(envelope)
            await handler(envelope)

        return validated

    def _check(self, envelope: Envelope) -> None:
        cause: Exception | None = None
        try:
            result = self._validator(envelope.event)
        except Exception as error:
            cause = error
        else:
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                cause = TypeError("a validator is a plain function, not an async one")
            elif result is not False:
                return
        text = f"the validator {self._name!r} refused the event"
        if envelope.delivery is None:
            is_new = len(self._counts) >= _MOST_SUBJECTS and (envelope.topic, REFUSED) not in self._counts
            self._counts[OTHER if is_new else envelope.topic, REFUSED] += 1
            raise PublishFailed(f"{text}; it is not published on {envelope.topic!r}") from cause
        self._counts[envelope.delivery.subscription, REFUSED] += 1
        raise PermanentError(text) from cause


def _find(name: str) -> Validator:
    module_name, _, path = name.partition(":")
    found: Any = import_module(module_name)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ImportError(f"{module_name!r} has no function {path!r}")
    validator: Validator = found
    return validator
