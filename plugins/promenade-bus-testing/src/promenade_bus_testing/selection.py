"""Selections of recorded events, and the message for missing ones."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from bus_core import Event, Topic, TopicPattern
from bus_core.events import nearest_names
from promenade_bus_testing.steps import Failed, Handled, Published, Step, flows_of, id_of, shown

__all__ = ["E", "Selection", "Where"]

E = TypeVar("E", bound=Event[Any])

Where = Callable[[E], object] | Mapping[str, object] | None
"""Selects events: a predicate, or a mapping of field names to values."""

_MOST_SHOWN: Final = 10
_ABSENT: Final = object()


class Selection:
    """A topic or pattern and a condition, for published or for handled events."""

    def __init__(
        self,
        topic: Topic[Any] | str,
        where: Where[Any] = None,
        *,
        handled: bool = False,
        by: str | None = None,
    ) -> None:
        self._topic = topic.name if isinstance(topic, Topic) else topic
        self._pattern = TopicPattern(self._topic)
        self._where = where
        self._handled = handled or by is not None
        self._by = by

    def __str__(self) -> str:
        done = "published to" if not self._handled else "handled of"
        by = "" if self._by is None else f" by {self._by}"
        if self._where is None:
            which = ""
        elif isinstance(self._where, Mapping):
            which = " with " + ", ".join(f"{name}={value!r}" for name, value in self._where.items())
        else:
            which = f" that {getattr(self._where, '__qualname__', repr(self._where))} selects"
        return f"{done} {self._topic}{by}{which}"

    def events(self, steps: Iterable[Step]) -> list[Any]:
        """Returns the selected events, in order."""
        return [event for event in self._candidates(steps) if self._selects(event)]

    def _candidates(self, steps: Iterable[Step]) -> list[Event]:
        """Returns the events of the topic, without the condition."""
        kind = Handled if self._handled else Published
        return [
            step.event
            for step in steps
            if isinstance(step, kind) and self._pattern.matches(step.topic) and self._is_by(step)
        ]

    def _is_by(self, step: Step) -> bool:
        return self._by is None or (isinstance(step, Handled) and step.subscription == self._by)

    def _selects(self, event: Event) -> bool:
        if self._where is None:
            return True
        if isinstance(self._where, Mapping):
            return not self._differences(event)
        return bool(self._where(event))

    def _differences(self, event: Event) -> list[str]:
        assert isinstance(self._where, Mapping), "only values can be compared"
        lines: list[str] = []
        for name, value in self._where.items():
            has = getattr(event, name, _ABSENT)
            if has is _ABSENT:
                lines.append(f"{name}: expected {value!r}, but {type(event).__name__} has no such field")
            elif has != value:
                lines.append(f"{name}: expected {value!r}, is {has!r}")
        return lines

    # --- what there is instead ----------------------------------------------------------------------------

    def explain(
        self, expected: str, found: int, steps: Sequence[Step], unfinished: Sequence[str], waited: str = ""
    ) -> str:
        """Describes the expected events, the recorded ones, the nearest one, and running handlers."""
        lines = [f"expected {expected}{waited}, found {found or 'none'}"]
        candidates = self._candidates(steps)
        if found:
            lines += _listed("found:", [*map(shown, self.events(steps))])
        else:
            lines += self._nearest(candidates)
        others = [event for event in candidates if not self._selects(event)]
        lines += _listed(f"{self._done} {self._topic}, but not selected:", map(shown, others))
        if not candidates:
            lines += self._elsewhere(steps)
        lines += _listed("still running:", unfinished)
        failed = [id_of(step) for step in steps if isinstance(step, Failed)]
        of_topic = {id_of(step) for step in steps if self._pattern.matches(step.topic)}
        troubled = dict.fromkeys(event_id for event_id in failed if event_id in of_topic)
        if troubled:
            lines += ["what failed:", *_indented(flows_of(troubled, steps))]
        return "\n".join(lines)

    @property
    def _done(self) -> str:
        return "handled of" if self._handled else "published to"

    def _nearest(self, candidates: Sequence[Event]) -> list[str]:
        if not candidates or not isinstance(self._where, Mapping):
            return []
        wanted = dict(self._where)

        def distance(event: Event) -> tuple[int, float]:
            likeness = sum(_likeness(getattr(event, name, None), value) for name, value in wanted.items())
            return len(self._differences(event)), -likeness

        nearest = min(candidates[-100:], key=distance)
        return [f"nearest: {shown(nearest)}", *(f"  {line}" for line in self._differences(nearest))]

    def _elsewhere(self, steps: Sequence[Step]) -> list[str]:
        """Lists the events of other topics, and the other stage of this one."""
        published = Counter(step.topic for step in steps if isinstance(step, Published))
        handled = Counter(
            f"{step.topic} by {step.subscription}" for step in steps if isinstance(step, Handled)
        )
        lines = _listed("published so far:", [f"{topic} ({count})" for topic, count in published.items()])
        lines += _listed("handled so far:", [f"{what} ({count})" for what, count in handled.items()])
        near = [name for name in nearest_names(self._topic, published) if name != self._topic]
        if near:
            lines.append(f"did you mean {' or '.join(map(repr, near))}?")
        return lines or ["nothing was published or handled so far"]


def _likeness(one: object, other: object) -> float:
    """Returns the similarity from 0 (nothing in common) to 1 (equal)."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return 1 / (1 + abs(one - other))
    return difflib.SequenceMatcher(None, str(one), str(other)).ratio()


def _listed(heading: str, items: Iterable[str]) -> list[str]:
    lines = [*items]
    if not lines:
        return []
    more = [f"  and {len(lines) - _MOST_SHOWN} more"] if len(lines) > _MOST_SHOWN else []
    return [heading, *(f"  {line}" for line in lines[:_MOST_SHOWN]), *more]


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
