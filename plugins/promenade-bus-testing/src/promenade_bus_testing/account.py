"""The account of a fault test: the outcome of each event, from the journals of publishers and handlers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import attrs

from promenade_bus_testing.balance import Balance
from promenade_bus_testing.journal import Record, read_journal

__all__ = ["Account", "SubscriptionAccount"]

_HEALED: Final = "healed"
_MOST_NAMED: Final = 3


@attrs.frozen(kw_only=True)
class SubscriptionAccount:
    """The outcomes of the events of one subscription.

    - ``expected``: acknowledged events of its topic or pattern.
    - ``handled``: expected events that a handler has handled, however often.
    - ``dead_lettered``: expected events that were not handled and are in the dead-letter store.
    - ``duplicated``: surplus outcomes; an event handled twice counts once.
    - ``lost``: expected events that are neither handled nor dead-lettered.
    - ``unexpected``: deliveries of events that were never published, or do not match its topic.
    - ``interrupted``: attempts without an end, because the process died. Each may have had its effect, and so
      be an invisible duplicate.
    - ``failed``: attempts that raised.
    """

    name: str
    expected: int = 0
    handled: int = 0
    dead_lettered: int = 0
    duplicated: int = 0
    lost: int = 0
    unexpected: int = 0
    interrupted: int = 0
    failed: int = 0


@attrs.frozen(kw_only=True)
class Account:
    """The account over all journals. It adds up when it has no ``faults``; each fault is a sentence.

    - ``attempted`` events were passed to the bus, and ``acknowledged`` events were accepted.
    - ``stuck`` events were pending or unread at the end; ``counted_lost`` is the loss counter of the bus.
    - ``torn`` journals end in the middle of a line, because their process died there.
    - ``recovery`` is the time in seconds from the last mark ``healed`` to the next handled event, and
      ``caught_up`` the time until all events acknowledged before the mark were handled. Both are None without
      such a mark or event.
    """

    attempted: int
    acknowledged: int
    subscriptions: tuple[SubscriptionAccount, ...]
    stuck: int
    counted_lost: int
    torn: int
    recovery: float | None
    caught_up: float | None
    faults: tuple[str, ...]

    @classmethod
    def of(cls, *places: str | os.PathLike[str], duplicates: int = 0) -> Account:
        """Makes the account of journals: files, or directories with ``*.jsonl`` files.

        ``duplicates`` is the number allowed in total. Raises ``FileNotFoundError`` if there is no journal.
        """
        return _Books(_files(places)).account(duplicates)

    @property
    def adds_up(self) -> bool:
        """True when the account has no fault: no event is lost, unexpected, stuck or duplicated too often."""
        return not self.faults

    def total(self, name: str) -> int:
        """Returns the sum of a count over all subscriptions, such as ``total("lost")``."""
        return sum(getattr(each, name) for each in self.subscriptions)

    def check(self) -> None:
        """Raises ``AssertionError`` with all faults and counts when the account does not add up."""
        if self.faults:
            lines = "\n".join(f"  {fault}" for fault in self.faults)
            raise AssertionError(f"the account does not add up:\n{lines}\n{self.as_data()}")

    def as_data(self) -> dict[str, Any]:
        """Returns the account as plain data."""
        names = [field.name for field in attrs.fields(SubscriptionAccount) if field.name != "name"]
        data = attrs.asdict(self) | {name: self.total(name) for name in names}
        return data | {"faults": [*self.faults], "adds_up": self.adds_up}


Event = tuple[str, str]
"""A topic, and the id of an event that was published to it."""

Delivery = tuple[str, str, str]
"""A subscription, a topic, and the id of an event."""


class _Books:
    """The records of all journals, sorted for the account."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.faults: list[str] = []
        self.patterns: dict[str, set[str]] = {}
        self.attempted: set[Event] = set()
        self.acknowledged: dict[Event, float] = {}
        self.begun: Counter[Delivery] = Counter()
        self.failed: Counter[Delivery] = Counter()
        self.handled: dict[Delivery, list[float]] = {}
        self.letters: dict[str, Delivery] = {}
        self.stuck = self.counted_lost = self.torn = 0
        self.healed: float | None = None
        for file in files:
            for record in read_journal(file):
                if isinstance(record, Record):
                    self._enter(record)
                elif record:
                    self.faults.append(f"{file}: {record}")
                else:
                    self.torn += 1

    def _enter(self, record: Record) -> None:
        event = (record.topic, record.event_id)
        delivery = (record.subscription, *event)
        match record.kind:
            case "subscribed":
                self.patterns.setdefault(record.subscription, set()).add(record.text)
            case "attempted":
                self.attempted.add(event)
            case "acknowledged":
                self.acknowledged.setdefault(event, record.at)
            case "begun":
                self.begun[delivery] += 1
            case "handled":
                self.handled.setdefault(delivery, []).append(record.at)
            case "failed":
                self.failed[delivery] += 1
            case "dead-letter":
                self.letters[record.text] = delivery
            case "stuck":
                self.stuck += record.count
            case "counted-lost":
                self.counted_lost += record.count
            case "mark" if record.text == _HEALED:
                self.healed = record.at if self.healed is None else max(self.healed, record.at)
            case _:
                pass

    def account(self, allowed_duplicates: int) -> Account:
        lines = tuple(self._subscription(name) for name in sorted(self._names()))
        lost = sum(line.lost for line in lines)
        duplicated = sum(line.duplicated for line in lines)
        faults = [*self.faults, *self._strange_journals()]
        if lost > self.counted_lost:
            told = f", and the bus counted only {self.counted_lost} as lost" if self.counted_lost else ""
            faults.append(f"{lost} lost{told}: {self._named('lost')}")
        if sum(line.unexpected for line in lines):
            faults.append(f"{sum(line.unexpected for line in lines)} unexpected: {self._named('unexpected')}")
        if duplicated > allowed_duplicates:
            faults.append(
                f"{duplicated} duplicated, {allowed_duplicates} allowed: {self._named('duplicated')}"
            )
        if self.stuck:
            faults.append(f"{self.stuck} stuck: pending, unread or abandoned at the end")
        recovery, caught_up = self._recovery()
        return Account(
            attempted=len(self.attempted),
            acknowledged=len(self.acknowledged),
            subscriptions=lines,
            stuck=self.stuck,
            counted_lost=self.counted_lost,
            torn=self.torn,
            recovery=recovery,
            caught_up=caught_up,
            faults=tuple(faults),
        )

    def _names(self) -> set[str]:
        seen = {*self.begun, *self.handled, *self.letters.values()}
        return {*self.patterns, *(name for name, _, _ in seen)}

    def _strange_journals(self) -> Iterator[str]:
        if not self.patterns:
            yield "no journal records a subscription: no event was expected, so the account proves nothing"
        for name in sorted(self._names() - self.patterns.keys()):
            yield f"{name}: no journal records the topic of this subscription; use Journal.subscribed"
        strange = self.acknowledged.keys() - self.attempted
        if strange:
            yield f"{len(strange)} acknowledged without having been attempted: {_few(strange)}"
        ends = self.failed + Counter({delivery: len(at) for delivery, at in self.handled.items()})
        without = ends - self.begun
        if without:
            yield f"{without.total()} attempts have an end and no beginning: {_few(without)}"

    def _subscription(self, name: str) -> SubscriptionAccount:
        handled = Counter({delivery: len(at) for delivery, at in self.handled.items() if delivery[0] == name})
        letters = Counter(delivery for delivery in self.letters.values() if delivery[0] == name)
        begun = _of(name, self.begun)
        failed = _of(name, self.failed)
        due = self._due(name)
        return SubscriptionAccount(
            name=name,
            expected=due.total(),
            handled=len(due.keys() & handled.keys()),
            dead_lettered=len((due.keys() & letters.keys()) - handled.keys()),
            duplicated=self._duplicated(name).total(),
            lost=self._balance(name).lost.total(),
            unexpected=self._unexpected(name).total(),
            interrupted=(begun - handled - failed).total(),
            failed=failed.total(),
        )

    def _due(self, name: str) -> Counter[Delivery]:
        patterns = self.patterns.get(name, set())
        return Counter((name, *event) for event in self.acknowledged if _is_for(patterns, event[0]))

    def _balance(self, name: str) -> Balance[Delivery]:
        patterns = self.patterns.get(name, set())
        ended = Counter({delivery: len(at) for delivery, at in self.handled.items() if delivery[0] == name})
        ended.update(delivery for delivery in self.letters.values() if delivery[0] == name)
        # Attempted and not acknowledged: it may be stored or not.
        unsure = self.attempted - self.acknowledged.keys()
        possible = Counter((name, *event) for event in unsure if _is_for(patterns, event[0]))
        return Balance.of(self._due(name), ended, possible)

    def _unexpected(self, name: str) -> Counter[Delivery]:
        """Counts deliveries of events that were never published, or do not match the subscription's topic."""
        patterns = self.patterns.get(name, set())
        seen = {*self.begun, *self.handled, *self.letters.values()}
        return Counter(
            {
                delivery: max(1, self.begun[delivery])
                for delivery in seen
                if delivery[0] == name
                and not (delivery[1:] in self.attempted and _is_for(patterns, delivery[1]))
            }
        )

    def _duplicated(self, name: str) -> Counter[Delivery]:
        unexpected = self._unexpected(name)
        surplus = self._balance(name).surplus
        return Counter({delivery: count for delivery, count in surplus.items() if delivery not in unexpected})

    def _named(self, what: str) -> str:
        """Returns the first few deliveries of a fault, as text."""
        names = self._names()
        found: dict[str, Iterable[Delivery]] = {
            "lost": (delivery for name in names for delivery in self._balance(name).lost),
            "unexpected": (delivery for name in names for delivery in self._unexpected(name)),
            "duplicated": (delivery for name in names for delivery in self._duplicated(name)),
        }
        return _few(found[what])

    def _recovery(self) -> tuple[float | None, float | None]:
        healed = self.healed
        if healed is None:
            return None, None
        after = [at for times in self.handled.values() for at in times if at >= healed]
        before = {event for event, at in self.acknowledged.items() if at <= healed}
        late = [min(times) for delivery, times in self.handled.items() if delivery[1:] in before]
        recovery = min(after) - healed if after else None
        caught_up = max(0.0, max(late) - healed) if late else None
        return recovery, caught_up


def _of(name: str, counts: Counter[Delivery]) -> Counter[Delivery]:
    return Counter({delivery: count for delivery, count in counts.items() if delivery[0] == name})


def _is_for(patterns: Iterable[str], topic: str) -> bool:
    """Returns True when a topic matches one of the patterns: ``*`` is one word, ``#`` zero or more.

    This does not use the code of the bus, because the account must not repeat a mistake of the bus.
    """
    return any(_fits(pattern, topic) for pattern in patterns)


@cache
def _fits(pattern: str, topic: str) -> bool:
    return _matches(pattern.split("."), topic.split("."))


def _matches(pattern: list[str], words: list[str]) -> bool:
    match pattern:
        case []:
            return not words
        case ["#", *rest]:
            return any(_matches(rest, words[start:]) for start in range(len(words) + 1))
        case [word, *rest]:
            return bool(words) and word in ("*", words[0]) and _matches(rest, words[1:])
        case _:
            raise AssertionError(pattern)


def _few(found: Iterable[tuple[str, ...]]) -> str:
    """Returns the first few as text: ``subscription topic id``."""
    texts = sorted(" ".join(part or "?" for part in each) for each in found)
    more = f" and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return ", ".join(texts[:_MOST_NAMED]) + more


def _files(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    files: list[Path] = []
    for place in map(Path, places):
        found = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
        if not found or not all(file.is_file() for file in found):
            raise FileNotFoundError(f"no journal at {str(place)!r}")
        files += found
    return files
