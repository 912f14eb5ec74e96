"""Lets everybody finish, and judges what has become of each event."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from chaos.histories.acting import Acting
from chaos.histories.looking import GONE, Due, Kept
from chaos.histories.model import Sent
from chaos.histories.places import OnServer
from chaos.histories.steps import TOPICS
from chaos.histories.troupe import Failed
from promenade_bus_testing.journal import Record, read_journal

__all__ = ["finish"]

_NAMED_WITHIN = 8.0
_NAME = re.compile(r"'([^' ]+)' on '([^' ]+)'")

_LOOK = 3.0
"""Seconds between two looks of a consumer for what belongs to nobody, each at another topic."""

_LOOKED_FOR = ("lose", "restart", "lessen", "destroy", "failover")
"""Things after which something may belong to somebody who does not know, or is long gone."""

_REPEATING = ("lose", "restart", "lessen", "failover")
"""Things after which any event may be handled once more, and in any order."""

_MISCOUNTING = ("restart", "lessen", "foreign", "forget", "destroy", "failover")
"""Things after which more may be counted as lost than was."""


_DELAYING = (
    *("lose", "restart", "lessen", "failover", "fill", "clock"),
    *("freeze", "pause", "unsubscribe", "destroy", "redrive"),
)
"""Things after which an instance may not get its turn in time."""


async def finish(acting: Acting, directory: Path, patience: float) -> list[str]:
    """Ends a history; returns what is wrong."""
    await acting.heal()
    await _complete_deployments(acting)
    kept = await _until_settled(acting, patience)
    acting.faults += await _until_named(acting, kept)
    for running in [*acting.running.values()]:
        await acting.end(running)
    for press in acting.presses:
        try:
            await press.end()
        except Failed as failed:
            acting.faults.append(str(failed))
    # What was counted in the last moment is added to the counts on the server when a bus is closed.
    kept = await acting.place.kept(acting.model.groups)
    return [*acting.faults, *_Judgement(acting, kept, directory).faults()]


async def _complete_deployments(acting: Acting) -> None:
    """The newest code of each service runs, and no other.

    A service that was stopped begins again, unless health is to name it: then it is gone for good.
    """
    for label, running in [*acting.running.items()]:
        if running.code != acting.newest[running.service]:
            del acting.running[label]
            await acting.end(running)
    for service, code in [*acting.newest.items()]:
        instances = [each for each in acting.running.values() if each.service == service]
        is_gone = not instances and acting.history.orphaned_after < 60
        if not is_gone and not any(not each.ended for each in instances):
            await acting.start(service, code, f"again-{service}")


def _served(acting: Acting, due: Due) -> bool:
    return any(running.serves(*due) for running in acting.running.values())


async def _until_settled(acting: Acting, patience: float) -> Kept:
    """Waits until nothing waits for those who run."""
    if not isinstance(acting.place, OnServer):
        for running in acting.running.values():
            await running.actor.ask("drain")
        return await acting.place.kept(acting.model.groups)
    if acting.history.does(*_LOOKED_FOR):
        patience += _LOOK * sum(len(running.code.wishes) for running in acting.running.values()) * len(TOPICS)
    deadline = time.monotonic() + patience
    pause, fewest = 0.05, float("inf")
    while True:
        kept = await acting.place.kept(acting.model.groups)
        left = {due: ids for due, ids in kept.waiting.items() if _served(acting, due)}
        if not left:
            return kept
        if (
            count := sum(map(len, left.values()))
        ) < fewest:  # it goes on, if slowly: one key after its retries
            fewest, deadline = count, time.monotonic() + patience
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(pause)
        pause = min(0.3, pause * 1.5)
    for (group, topic), ids in left.items():
        acting.faults.append(
            f"{len(ids)} events of {topic} wait for {group}, which runs, and settles none: {_few(ids)}"
        )
    return kept


async def _until_named(acting: Acting, kept: Kept) -> list[str]:
    """Waits until health names everybody for whom something waits, and who does not run."""
    deadline = time.monotonic() + _NAMED_WITHIN
    while True:
        told = await _told(acting)
        named = {(group, topic) for text in told for group, topic in _NAME.findall(text)}
        kept = await acting.place.kept(acting.model.groups)
        unnamed = [
            due
            for due, ids in kept.waiting.items()
            if not _served(acting, due)
            and {each for each in ids if not each.startswith(GONE)}
            and (due in kept.marked or due[0] in acting.model.due(due[1]))
            and not any(group == due[0] for group, _ in named)
        ]
        wrong = [(group, topic) for group, topic in named if _served(acting, (group, topic))]
        if any(" more for " in text for text in told):
            unnamed = []  # health names five, and says how many more there are
        if not unnamed and not wrong:
            return []
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(0.3)
    return [
        *(
            f"{len(kept.waiting[due])} events of {due[1]} wait for {due[0]}, which nobody runs, and health "
            f"names it nowhere: {told}"
            for due in unnamed
        ),
        *(f"health says that nobody serves {group} on {topic}, which runs: {told}" for group, topic in wrong),
    ]


async def _told(acting: Acting) -> list[str]:
    try:
        report = await acting.press.ask("health")
    except Failed as failed:
        return [str(failed)]
    return [*report["told"].values()]


@attrs.define
class _Judgement:
    acting: Acting
    kept: Kept
    directory: Path
    handled: dict[tuple[str, str], list[float]] = attrs.field(factory=dict)

    def faults(self) -> Iterator[str]:
        strange: list[str] = []
        for path in sorted((self.directory / "journals").glob("*.jsonl")):
            for record in read_journal(path):
                if isinstance(record, Record) and record.kind == "handled":
                    self.handled.setdefault((record.subscription, record.event_id), []).append(record.at)
                    strange += self._strange(record)
        yield from strange[:5]
        yield from self._lost()
        yield from self._given_up()
        yield from self._counted_wrongly()
        yield from self._repeated()
        yield from self._disordered()

    def _strange(self, record: Record) -> Iterator[str]:
        model = self.acting.model
        if record.event_id in model.refused:
            yield f"{record.event_id} was refused, and {record.subscription} handled it"
        elif not model.may_get(record.subscription, record.topic):
            yield f"{record.subscription} handled {record.event_id} of {record.topic}, which is not its own"

    def _is_due(self, group: str, sent: Sent) -> bool:
        """True when it has not ended, and waits nowhere."""
        place = (group, sent.topic)
        return not (
            (group, sent.event_id) in self.handled
            or (group, sent.event_id) in self.acting.model.purged
            or sent.event_id in self.kept.letters.get(place, ())
            or sent.event_id in self.kept.waiting.get(place, ())
        )

    def _missing(self) -> Mapping[Due, list[Sent]]:
        missing: dict[Due, list[Sent]] = {}
        for group, sent in self.acting.model.must_get():
            if self._is_due(group, sent):
                missing.setdefault((group, sent.topic), []).append(sent)
        return missing

    def _lost(self) -> Iterator[str]:
        place = self.acting.place
        counts = not isinstance(place, OnServer) or place.server.binary.at_least((7, 0))
        for (group, topic), sent in self._missing().items():
            if not counts:  # Redis 6.2 does not tell what somebody else has removed
                sent = [each for each in sent if not each.removed]
            counted = self.kept.lost.get((group, topic), 0) + self.kept.lost.get(("*", topic), 0)
            # What is pending and gone is counted when somebody serves the group again.
            gone = sum(each.startswith(GONE) for each in self.kept.waiting.get((group, topic), ()))
            if len(sent) > counted + gone:
                ids = [f"{each.event_id} ({each.plan or 'plain'})" for each in sent]
                yield (
                    f"{len(sent)} events of {topic} are lost to {group}, of which {counted} are counted: "
                    f"{_few(ids)}"
                )

    def _given_up(self) -> Iterator[str]:
        """An event of another version is for others: no letter at once, nor while one stands by."""
        acting = self.acting
        for (group, topic), letters in self.kept.letters.items():
            for event_id, reason in letters.items():
                sent = acting.model.sent.get(event_id)
                if sent is None or not reason.startswith("cannot be decoded"):
                    continue
                readers = {*sent.readers.get(group, ())} & acting.running.keys()
                if "no instance" not in reason:
                    yield f"{group} gave {event_id} of {topic} up at once: {reason}"
                elif readers and not acting.history.does(*_DELAYING):
                    yield f"{group} gave {event_id} of {topic} up, which {_few(readers)} can read: {reason}"

    def _counted_wrongly(self) -> Iterator[str]:
        acting = self.acting
        for (group, topic), count in self.kept.lost.items():
            possible = acting.model.lost_possibly(topic)
            if count > possible and not acting.history.does(*_MISCOUNTING):
                yield f"{count} events of {topic} are counted as lost to {group}; {possible} can be"

    def _repeated(self) -> Iterator[str]:
        if self.acting.history.does(*_REPEATING):
            return
        repeated: Counter[str] = Counter()
        for (group, event_id), times in self.handled.items():
            sent = self.acting.model.sent.get(event_id)
            if group in self.acting.model.repeated:
                continue
            if len(times) > 1 and sent is not None and not sent.doubtful:
                repeated[group] += 1
        for group, count in repeated.items():
            yield f"{group} handled {count} events more than once, and nothing happened that explains it"

    def _disordered(self) -> Iterator[str]:
        model = self.acting.model
        if self.acting.history.does(*_REPEATING):
            return
        lines: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
        for (group, event_id), times in self.handled.items():
            sent = model.sent.get(event_id)
            if sent is None or sent.doubtful:
                continue
            if group not in model.unordered | model.disordered:
                lines.setdefault((group, sent.topic, sent.key), []).append((sent.order, min(times)))
        for (group, topic, key), line in lines.items():
            at = [moment for _, moment in sorted(line)]
            if at != sorted(at):
                yield f"{group}, which is ordered, handled events of {topic} out of order (key {key})"


def _few(ids: object) -> str:
    texts = sorted(map(str, ids))  # type: ignore[call-overload]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
