"""The account: what was published against what was handled, and both against the counters of the bus."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from bus_core import EngineState
from crm.journal import DeadLetterEntry, HandlerJournal, Journal

__all__ = ["Account", "BusCounters", "TopicAccount", "make_account"]


@attrs.frozen
class TopicAccount:
    """One line of the account. Deliveries are counted over all subscriptions of the topic."""

    topic: str
    published: int
    expected: int
    """Deliveries that the journal of the publishers calls for."""

    handled: int
    retried: int
    dead_lettered: int
    redriven: int
    lost: int
    """Expected deliveries that were neither handled nor are among the dead letters."""

    events_per_second: float
    """From the first publish of the topic to the last time one of its events was handled."""


@attrs.frozen
class Account:
    """The account of a run. It adds up when ``faults`` is empty."""

    topics: tuple[TopicAccount, ...]
    total: TopicAccount
    faults: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The account as a JSON document."""
        return {
            "topics": [attrs.asdict(topic) for topic in self.topics],
            "total": attrs.asdict(self.total),
            "faults": list(self.faults),
            "lost": self.total.lost,
        }


@attrs.frozen
class BusCounters:
    """The counters of the bus itself: events by topic, the rest by subscription."""

    published: Mapping[str, int]
    state: EngineState


def make_account(journal: Journal, counters: BusCounters, seconds: float) -> Account:
    """Balances the journals. ``seconds`` is how long the whole run took, for the total's rate."""
    faults: list[str] = []
    topics = [_topic_account(journal, topic, faults) for topic in _topics(journal)]
    faults += [
        f"{entry.subscription} left a dead letter of {entry.topic}: event {entry.event_id}"
        for entry in journal.remaining
    ]
    faults += _disagreements(journal, counters)
    total = TopicAccount(
        topic="total",
        published=sum(line.published for line in topics),
        expected=sum(line.expected for line in topics),
        handled=sum(line.handled for line in topics),
        retried=sum(line.retried for line in topics),
        dead_lettered=sum(line.dead_lettered for line in topics),
        redriven=sum(line.redriven for line in topics),
        lost=sum(line.lost for line in topics),
        events_per_second=_rate(sum(line.published for line in topics), seconds),
    )
    return Account(tuple(topics), total, tuple(faults))


def _topics(journal: Journal) -> list[str]:
    handled = {topic for entry in journal.handlers.values() for topic in (*entry.begun, *entry.handled)}
    return sorted({*journal.publishers, *handled})


def _topic_account(journal: Journal, topic: str, faults: list[str]) -> TopicAccount:
    publisher = journal.publishers.get(topic)
    accepted = publisher.accepted if publisher else {}
    faults += _told(f"published more than once: {topic}", (i for i, times in accepted.items() if times > 1))
    expected = handled = retried = lost = 0
    for entry in journal.handlers.values():
        due = accepted if _is_for(entry.pattern, topic) else {}
        begun, done = entry.begun.get(topic, {}), entry.handled.get(topic, {})
        kept = {letter.event_id for letter in journal.remaining if _belongs(letter, entry, topic)}
        missing = due.keys() - done.keys() - kept
        expected += len(due)
        handled += sum(done.values())
        retried += sum(begun.values()) - len(begun)
        retried -= sum(_belongs(letter, entry, topic) for letter in journal.redriven)
        lost += len(missing)
        what = f"by {entry.name}: {topic}"
        faults += _told(f"lost {what}", missing)
        faults += _told(f"handled without being published {what}", done.keys() - due.keys())
        faults += _told(f"handled more than once {what}", (i for i, times in done.items() if times > 1))
    redriven = sum(letter.topic == topic for letter in journal.redriven)
    span = publisher.last_handled_at - publisher.first_at if publisher else 0.0
    return TopicAccount(
        topic=topic,
        published=sum(accepted.values()),
        expected=expected,
        handled=handled,
        retried=retried,
        dead_lettered=redriven + sum(letter.topic == topic for letter in journal.remaining),
        redriven=redriven,
        lost=lost,
        events_per_second=_rate(len(accepted), span),
    )


def _belongs(letter: DeadLetterEntry, entry: HandlerJournal, topic: str) -> bool:
    return letter.subscription == entry.name and letter.topic == topic


def _is_for(pattern: str, topic: str) -> bool:
    """True when a subscription is meant for a topic: ``*`` is one word, ``#`` the rest.

    Written again, not taken from the bus: the account must not repeat a mistake of the bus.
    """
    words = re.escape(pattern).replace(r"\*", r"[^.]+").replace(r"\#", ".*")
    return re.fullmatch(words, topic) is not None


def _told(what: str, event_ids: Any) -> Iterator[str]:
    """One sentence that counts the events and names the first of them."""
    found = sorted(event_ids, key=str)
    if found:
        yield f"{what}: {len(found)}, the first is {found[0]}"


def _disagreements(journal: Journal, counters: BusCounters) -> Iterator[str]:
    """Where the counters of the bus tell another story than the journals."""
    for topic in sorted({*journal.publishers, *counters.published}):
        publisher = journal.publishers.get(topic)
        written = sum(publisher.accepted.values()) if publisher else 0
        yield from _differ(topic, "published", written, counters.published.get(topic, 0))
    counted = {state.name: state for state in counters.state.subscriptions}
    for entry in journal.handlers.values():
        state = counted.get(entry.name)
        if state is None:
            yield f"{entry.name}: the bus does not know this subscription"
            continue
        handled = sum(sum(by_id.values()) for by_id in entry.handled.values())
        begun = sum(sum(by_id.values()) for by_id in entry.begun.values())
        distinct = sum(len(by_id) for by_id in entry.begun.values())
        letters = Counter(letter.subscription for letter in journal.redriven)[entry.name]
        remaining = Counter(letter.subscription for letter in journal.remaining)[entry.name]
        yield from _differ(entry.name, "handled", handled, state.handled)
        yield from _differ(entry.name, "failed attempts", begun - handled, state.failed_attempts)
        yield from _differ(entry.name, "retried", begun - distinct - letters, state.retried)
        yield from _differ(entry.name, "redriven", letters, state.redriven)
        yield from _differ(entry.name, "dead-lettered", letters + remaining, state.dead_lettered)
    if counters.state.lost:
        yield f"the bus counted {counters.state.lost} lost"
    if counters.state.unsettled:
        yield f"the bus holds {counters.state.unsettled} events that are not settled"


def _differ(where: str, what: str, written: int, counted: int) -> Iterator[str]:
    if written != counted:
        yield f"{where}: the journals say {written} {what}, the bus counted {counted}"


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds > 0 else 0.0
