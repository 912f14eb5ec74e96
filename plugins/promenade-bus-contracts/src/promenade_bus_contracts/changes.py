"""Compares lock files with contracts, and judges each change: does it break anybody, and whom?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from bus_core.events import missing_upcasters
from promenade_bus_contracts.lock_files import as_data
from promenade_bus_contracts.published import Contract, PublishedTopic, Subscriber
from promenade_bus_contracts.schemas import READERS, STORED, Difference, differences

__all__ = ["Change", "breaking", "changes_of"]

BOTH: Final = frozenset({READERS, STORED})


@attrs.frozen
class Change:
    """A change of a topic since it was locked.

    ``verdict`` is ``breaking``, ``versioned`` or ``harmless``. A versioned change would break, but it has a
    new version, and what old events need to be read. ``subscribers`` receive the topic.
    """

    context: str
    topic: str
    kind: str
    text: str
    verdict: str
    field: str | None = None
    remedy: str | None = None
    subscribers: tuple[Subscriber, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Returns the change as plain data for programs."""
        data = attrs.asdict(self, recurse=True)
        return {**data, "subscribers": [attrs.asdict(each) for each in self.subscribers]}

    def __str__(self) -> str:
        what = self.topic if self.field is None else f"{self.topic}: the field {self.field!r}"
        return f"{what} {self.text}"


def changes_of(
    lock: Mapping[str, Any], contract: Contract | None, context: str, subscribers: Sequence[Subscriber]
) -> list[Change]:
    """Returns what has changed since the lock was written, topic by topic."""
    return [*_Judging(lock, contract, context, subscribers).changes()]


class _Judging:
    def __init__(
        self,
        lock: Mapping[str, Any],
        contract: Contract | None,
        context: str,
        subscribers: Sequence[Subscriber],
    ) -> None:
        self._locked: Mapping[str, Any] = lock["topics"]
        self._topics: Mapping[str, PublishedTopic] = {} if contract is None else contract.topics
        self._current: Mapping[str, Any] = {} if contract is None else as_data(contract)["topics"]
        self._context = context
        self._subscribers = subscribers

    def changes(self) -> Iterator[Change]:
        successors = self._successors()
        for name in sorted({*self._locked, *self._current}):
            if name not in self._current:
                yield self._gone(name, successors.get(name))
            elif name not in self._locked:
                if name not in successors.values():
                    yield self._change(name, "topic-added", "is a new topic", "harmless")
            else:
                yield from self._of_topic(name, self._locked[name], self._topics[name])

    def _successors(self) -> dict[str, str]:
        """Topics that are gone, each with the new one of the same type or schema, if there is one."""
        new = [name for name in self._current if name not in self._locked]
        found: dict[str, str] = {}
        for name in self._locked:
            if name in self._current:
                continue
            same = [other for other in new if _is_alike(self._locked[name], self._current[other])]
            if same:
                found[name] = same[0]
        return found

    def _gone(self, name: str, successor: str | None) -> Change:
        takers = self._takers(name)
        deprecated = self._locked[name].get("deprecated")
        if successor is not None:
            kind, text = "topic-renamed", f"was renamed to {successor!r}: nothing is published on it any more"
            remedy = f"publish on both; mark the old one: Topic({name!r}, ..., deprecated='use {successor}')"
        else:
            kind, text = "topic-removed", "was removed: nothing is published on it any more"
            remedy = (
                f"keep it, and mark it: Topic({name!r}, ..., deprecated='use ...'), until nobody subscribes"
            )
        if deprecated is not None and self._subscribers and not takers:
            return self._change(name, kind, f"{text}; it was deprecated, and nobody subscribes", "harmless")
        return self._change(name, kind, text, "breaking", remedy=remedy)

    # --- one topic ---

    def _of_topic(self, name: str, old: Mapping[str, Any], topic: PublishedTopic) -> Iterator[Change]:
        new = self._current[name]
        if old["type"] != new["type"]:
            text = (
                f"changed the type of its events from {old['type']!r} to {new['type']!r}: readers refuse them"
            )
            remedy = f"keep the type, @event(type={old['type']!r}), or publish the new events on a new topic"
            yield self._change(name, "type-renamed", text, "breaking", remedy=remedy)
        if old["aggregate_id"] != new["aggregate_id"]:
            text = f"changed its aggregate ids from {old['aggregate_id']} to {new['aggregate_id']}"
            remedy = "publish the new events on a new topic: no upcaster sees the ids"
            yield self._change(name, "ids-retyped", text, "breaking", remedy=remedy)
        if old.get("deprecated") != new.get("deprecated"):
            advice = new.get("deprecated")
            text = "is no longer deprecated" if advice is None else f"is deprecated: {advice}"
            yield self._change(name, "topic-deprecated", text, "harmless")
        before, after = old["version"], new["version"]
        if after < before:
            text = f"went back from version {before} to {after}: newer events are stored already"
            yield self._change(name, "version-lowered", text, "breaking", remedy=f"@event(version={before})")
        elif after > before:
            text = f"went from version {before} to {after}"
            yield self._change(name, "version-raised", text, "harmless")
        for difference in differences(old["schema"], new["schema"]):
            yield self._judged(name, difference, before, topic)

    def _judged(self, name: str, found: Difference, before: int, topic: PublishedTopic) -> Change:
        if not found.hurts:
            return self._change(name, found.kind, found.text, "harmless", found.field)
        cls = topic.event_class.__name__
        if topic.version <= before:
            remedy = f"raise the version, @event(version={before + 1})"
            if STORED in found.hurts:
                remedy += f", and write @upcaster({cls}, from_version={before}); or leave it as it was"
            return self._change(name, found.kind, found.text, "breaking", found.field, remedy)
        gap = missing_upcasters(topic.event_class, before)
        if STORED in found.hurts and gap is not None:
            text = f"{found.text}; no upcaster begins at version {gap}"
            remedy = f"write @upcaster({cls}, from_version={gap}) in the module of the class"
            return self._change(name, found.kind, text, "breaking", found.field, remedy)
        return self._change(name, found.kind, found.text, "versioned", found.field)

    def _takers(self, name: str) -> tuple[Subscriber, ...]:
        return tuple(each for each in self._subscribers if each.takes(name))

    def _change(
        self,
        name: str,
        kind: str,
        text: str,
        verdict: str,
        field: str | None = None,
        remedy: str | None = None,
    ) -> Change:
        takers = self._takers(name)
        return Change(self._context, name, kind, text, verdict, field, remedy, takers)


def _is_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return bool(
        old["event"] == new["event"] or (old["type"] == new["type"] and old["schema"] == new["schema"])
    )


def breaking(changes: Iterable[Change]) -> list[Change]:
    """Returns the changes that break somebody."""
    return [change for change in changes if change.verdict == "breaking"]
