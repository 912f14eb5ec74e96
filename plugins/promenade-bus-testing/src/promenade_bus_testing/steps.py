"""The steps that a recorder keeps (published, handled, failed), and their text form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import attrs

from bus_core import AttemptFailure, Event
from bus_core.events import shown_fields
from bus_core.runtime import place_of

__all__ = [
    "Failed",
    "Handled",
    "Published",
    "Step",
    "describe",
    "flows_of",
    "id_of",
    "place_in_code",
    "shown",
]

E = TypeVar("E", bound=Event[Any])

_MOST_FLOWS: Final = 10


@attrs.frozen(kw_only=True)
class Published(Generic[E]):
    """The adapter accepted an event. ``at`` is in seconds of the bus's clock.

    ``cause`` is the id of the event whose handler published it; None if no handler did.
    """

    topic: str
    event: E
    headers: Mapping[str, str]
    at: float
    cause: str | None = None


@attrs.frozen(kw_only=True)
class Handled(Generic[E]):
    """An attempt of a subscription succeeded. ``at`` is in seconds of the bus's clock."""

    topic: str
    subscription: str
    event: E
    attempt: int
    headers: Mapping[str, str]
    at: float


@attrs.frozen(kw_only=True)
class Failed:
    """An attempt failed. ``injected`` is true when the test ordered it with ``fail_next``."""

    failure: AttemptFailure
    at: float
    injected: bool = False

    @property
    def error(self) -> BaseException:
        """The exception of the attempt."""
        return self.failure.error

    @property
    def subscription(self) -> str:
        """The subscription of the attempt."""
        return self.failure.subscription

    @property
    def topic(self) -> str:
        """The topic of the event."""
        return self.failure.topic


Step = Published[Event] | Handled[Event] | Failed


def describe(step: Step, start: float = 0.0) -> str:
    """Returns one line with the time since ``start`` and the step."""
    time = f"+{step.at - start:.3f} s"
    if isinstance(step, Published):
        by = "" if step.cause is None else f" by a handler of {step.cause}"
        return f"{time}  published{by}"
    if isinstance(step, Handled):
        return f"{time}  {step.subscription}: attempt {step.attempt} succeeded"
    failure = step.failure
    text = str(failure.error)
    where = "injected by the test" if step.injected else place_in_code(failure.error)
    return (
        f"{time}  {failure.subscription}: attempt {failure.attempt} failed with "
        f"{type(failure.error).__name__}{f': {text}' if text else ''} ({where}); {_consequence(failure)}"
    )


def _consequence(failure: AttemptFailure) -> str:
    if failure.action == "dead_letter":
        return f"dead letter: {failure.reason}"
    return f"{failure.action} in {failure.delay:g} s"


def flows_of(event_ids: Iterable[str], steps: Iterable[Step]) -> str:
    """Returns the steps of these events, and of the events whose handlers published them, in order."""
    grouped: dict[str, list[Step]] = {}
    causes: dict[str, str] = {}
    for step in steps:
        event_id = id_of(step)
        grouped.setdefault(event_id, []).append(step)
        if isinstance(step, Published) and step.cause is not None:
            causes.setdefault(event_id, step.cause)
    wanted: dict[str, None] = {}
    for event_id in event_ids:
        line = [event_id]
        while (cause := causes.get(line[-1])) is not None and cause not in line:
            line.append(cause)
        wanted |= dict.fromkeys(reversed(line))
    shown = [event_id for event_id in wanted if event_id in grouped]
    texts = [_flow(event_id, grouped[event_id]) for event_id in shown[:_MOST_FLOWS]]
    if len(shown) > _MOST_FLOWS:
        texts.append(f"and {len(shown) - _MOST_FLOWS} events more")
    return "\n".join(texts)


def _flow(event_id: str, steps: list[Step]) -> str:
    first = steps[0]
    event = first.failure.event if isinstance(first, Failed) else first.event
    topic = first.topic
    what = "an undecodable event" if event is None else shown(event)
    lines = [f"{topic} {event_id} {what}", *(f"  {describe(step, first.at)}" for step in steps)]
    return "\n".join(lines)


def shown(event: Event[Any]) -> str:
    """Returns an event as its class and its own fields, with personal values hidden."""
    fields = [f"{name}={text}" for name, text in shown_fields(event, of_base=False)]
    return f"{type(event).__name__}({', '.join(fields)})"


def id_of(step: Step) -> str:
    """Returns the id of a step's event."""
    return step.failure.event_id if isinstance(step, Failed) else str(step.event.event_id)


# --- where an error was raised ----------------------------------------------------------------------------


def place_in_code(error: BaseException) -> str:
    """Returns the place where the code under test raised an error, as ``file:line``.

    It is the place that the attempt of a dead letter has; see ``bus_core.runtime.place_of``.
    """
    path, _, line = place_of(error).rpartition(" in ")[0].rpartition(":")
    if not line:
        return "nowhere"
    file = Path(path)
    directory = Path.cwd()
    if file.is_relative_to(directory):
        file = file.relative_to(directory)
    return f"{file}:{line}"
