"""Records the published and handled events of a bus: the base of the async and the sync recorder."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, overload

from bus_core import AttemptFailure, Bus, Envelope, Event, Handler, Subscription, SyncSubscription, Topic
from promenade_bus_testing.failures import Failures
from promenade_bus_testing.selection import E, Selection, Where
from promenade_bus_testing.steps import Failed, Handled, Published, Step, flows_of, id_of, shown

__all__ = ["Observation"]

_handling: ContextVar[str | None] = ContextVar("promenade_bus_testing_handling", default=None)
"""The id of the event whose handler is running."""


class Observation:
    """The record of one bus. Attach it before the bus starts; its methods may be called from any thread.

    ``failures`` has the failed attempts and the test's expectations.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._clock = bus.parts.clock
        self._steps: list[Step] = []
        self._injected: dict[str, deque[BaseException | type[BaseException]]] = {}
        self._raised: set[int] = set()
        self._unfinished: dict[object, tuple[str, Event, int]] = {}
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self.failures = Failures(self)
        self.is_looked_after = False  # the code that closes the bus checks the failures
        bus.instrument(consume=self._consume, publish=self._publish, failure=self._failed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._bus!r}: {len(self._steps)} steps>"

    # --- what it sees -------------------------------------------------------------------------------------

    def _publish(self, handler: Handler) -> Handler:
        async def publish(envelope: Envelope) -> None:
            await handler(envelope)
            self._note(
                Published(
                    topic=envelope.topic,
                    event=envelope.event,
                    headers=dict(envelope.headers),
                    at=self._clock.monotonic(),
                    cause=_handling.get(),
                )
            )

        return publish

    def _consume(self, handler: Handler) -> Handler:
        async def consume(envelope: Envelope) -> None:
            delivery = envelope.delivery
            assert delivery is not None, "a consume middleware gets deliveries"
            name, event = delivery.subscription, envelope.event
            running = object()
            self._unfinished[running] = (name, event, delivery.attempt)
            token = _handling.set(delivery.message_id)
            try:
                self._raise_injected(name)
                await handler(envelope)
            finally:
                _handling.reset(token)
                del self._unfinished[running]
            self._note(
                Handled(
                    topic=envelope.topic,
                    subscription=name,
                    event=event,
                    attempt=delivery.attempt,
                    headers=delivery.headers,
                    at=self._clock.monotonic(),
                )
            )

        return consume

    def _failed(self, failure: AttemptFailure) -> None:
        injected = id(failure.error) in self._raised
        self._raised.discard(id(failure.error))
        self._note(Failed(failure=failure, at=self._clock.monotonic(), injected=injected))

    def _note(self, step: Step) -> None:
        with self._changed:
            self._steps.append(step)
            self._changed.notify_all()
        for listener in [*self._listeners]:
            listener()

    # --- faults on demand ---------------------------------------------------------------------------------

    def fail_next(
        self,
        subscription: str | Subscription | SyncSubscription,
        error: BaseException | type[BaseException],
        times: int = 1,
    ) -> None:
        """Makes the next ``times`` attempts of a subscription fail with ``error`` before its handler runs.

        These failures are expected. If one has not happened at the end, the test fails.
        """
        is_class = inspect.isclass(error) and issubclass(error, BaseException)
        if not is_class and not isinstance(error, BaseException):
            raise TypeError(f"fail_next takes an exception or a class of exceptions, got {error!r}")
        if times < 1:
            raise ValueError(f"fail_next: times must be at least 1, got {times!r}")
        name = subscription if isinstance(subscription, str) else subscription.name
        self._injected.setdefault(name, deque()).extend([error] * times)

    def _raise_injected(self, name: str) -> None:
        waiting = self._injected.get(name)
        if not waiting:
            return
        error = waiting.popleft()
        raised = error() if isinstance(error, type) else error
        self._raised.add(id(raised))
        raise raised.with_traceback(None)

    def uninjected(self) -> dict[str, int]:
        """Returns the number of ordered failures that have not happened, by subscription."""
        return {name: len(waiting) for name, waiting in self._injected.items() if waiting}

    # --- what it tells ------------------------------------------------------------------------------------

    @property
    def steps(self) -> list[Step]:
        """Every step so far, in order."""
        with self._changed:
            return [*self._steps]

    @property
    def bus(self) -> Bus:
        """The observed bus."""
        return self._bus

    @overload
    def published(self, topic: Topic[E], where: Where[E] = None) -> list[E]: ...
    @overload
    def published(self, topic: str = "#", where: Where[Event] = None) -> list[Event]: ...
    def published(self, topic: Any = "#", where: Any = None) -> list[Any]:
        """Returns the events published to a topic or pattern, in order.

        ``where`` selects events: a predicate, or a mapping of field names to values.
        """
        return Selection(topic, where).events(self.steps)

    @overload
    def handled(self, topic: Topic[E], where: Where[E] = None, *, by: str | None = None) -> list[E]: ...
    @overload
    def handled(
        self, topic: str = "#", where: Where[Event] = None, *, by: str | None = None
    ) -> list[Event]: ...
    def handled(self, topic: Any = "#", where: Any = None, *, by: str | None = None) -> list[Any]:
        """Returns the handled events, once for each time that a handler returned; see ``published``.

        ``by`` is the name of a subscription; without it, all subscriptions count.
        """
        return Selection(topic, where, handled=True, by=by).events(self.steps)

    @overload
    def expect(self, topic: Topic[E], where: Where[E] = None) -> E: ...
    @overload
    def expect(self, topic: str, where: Where[Event] = None) -> Event: ...
    def expect(self, topic: Any, where: Any = None) -> Any:
        """Returns the single event published to the topic that ``where`` selects.

        Raises ``AssertionError`` for none or several; the message lists the published and handled events and
        the nearest one.
        """
        selection = Selection(topic, where)
        found = selection.events(self.steps)
        if len(found) != 1:
            raise AssertionError(self._instead(selection, f"one event {selection}", len(found)))
        return found[0]

    @overload
    def expect_handled(self, topic: Topic[E], where: Where[E] = None, *, by: str | None = None) -> E: ...
    @overload
    def expect_handled(self, topic: str, where: Where[Event] = None, *, by: str | None = None) -> Event: ...
    def expect_handled(self, topic: Any, where: Any = None, *, by: str | None = None) -> Any:
        """Returns the single handled event of the topic; like ``expect``, with ``by`` as in ``handled``."""
        selection = Selection(topic, where, handled=True, by=by)
        found = selection.events(self.steps)
        if len(found) != 1:
            raise AssertionError(self._instead(selection, f"one event {selection}", len(found)))
        return found[0]

    def expect_nothing(self, topic: Topic[Any] | str = "#", where: Where[Any] = None) -> None:
        """Raises ``AssertionError`` when an event that ``where`` selects was published to the topic."""
        selection = Selection(topic, where)
        found = selection.events(self.steps)
        if found:
            raise AssertionError(self._instead(selection, f"no event {selection}", len(found)))

    def flow(self, *events: Event) -> str:
        """Returns the steps of these events, or of all events, as text with a line for each step."""
        steps = self.steps
        ids = [str(event.event_id) for event in events] or list(dict.fromkeys(map(id_of, steps)))
        return flows_of(ids, steps)

    def _too_few(self, selection: Selection, count: int, timeout: float) -> AssertionError:
        """Makes the error of ``wait_for`` for a timeout."""
        found = len(selection.events(self.steps))
        expected, waited = f"{count} events {selection}", f" within {timeout:g} s"
        return AssertionError(self._instead(selection, expected, found, waited))

    def _instead(self, selection: Selection, expected: str, found: int, waited: str = "") -> str:
        unfinished = [
            f"{name} is at attempt {attempt} of {shown(event)}"
            for name, event, attempt in [*self._unfinished.values()]
        ]
        return selection.explain(expected, found, self.steps, unfinished, waited)
