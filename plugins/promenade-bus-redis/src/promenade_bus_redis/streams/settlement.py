"""Carries out outcomes in batches, with a result for each.

While no other consumer can have claimed an entry, an acknowledgement does not check the owner. After that,
and whenever an entry is moved, a script checks the owner first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from redis.exceptions import ResponseError

from bus_core import BusError, LeaseLost, Outcome
from promenade_bus_redis.server.failures import RedisFailure, failure_of
from promenade_bus_redis.server.pipe import Pipe, Routed
from promenade_bus_redis.server.scripts import ACK, DONE, MOVE, NOTE
from promenade_bus_redis.streams.feeds import Feed, HeldEntry, StreamSource
from promenade_bus_redis.streams.wire import EntryState, letter_fields, returning_fields

__all__ = ["Parked", "Settled", "SettlementCommands", "settle"]

_MOVES_AT_ONCE: Final = 50
"""The maximum number of entries that one script moves, because a script blocks the server."""

_BYTES_AT_ONCE: Final = 1_000_000

Result = BusError | None
Judge = Callable[[Any], "list[Result] | None"]
"""Returns the result of each outcome from a reply, or None if all were carried out."""


@attrs.frozen
class Parked:
    """A parked retry. ``score`` is its score on the server, and ``delay`` is in seconds."""

    feed: Feed
    score: str
    delay: float


@attrs.frozen
class Settled:
    """The results of outcomes: one for each, the parked retries, and the feeds with lost entries."""

    results: list[Result]
    parked: list[Parked] = attrs.field(factory=list)
    lost: list[Feed] = attrs.field(factory=list)


class SettlementCommands:
    """The commands that carry out some outcomes, with the judges of their replies.

    ``is_sure`` returns True for a session of ``Leases`` whose entries are certainly still owned.
    """

    def __init__(self, consumer: str, is_sure: Callable[[int], bool]) -> None:
        self._consumer = consumer
        self._is_sure = is_sure
        self._commands: list[Routed] = []
        self._judges: list[tuple[Sequence[int], Sequence[HeldEntry], Judge]] = []

    # --- what is to be done -------------------------------------------------------------------------------

    def acknowledge(self, source: StreamSource, indices: Sequence[int], held: Sequence[HeldEntry]) -> None:
        """Acknowledges entries for the group."""
        # Read once, because the thread of the leases may change it.
        sure = {session for session in {each.session for each in held} if self._is_sure(session)}
        doubtful = {place for place, each in enumerate(held) if each.session not in sure}
        if doubtful:
            unsure = [held[place] for place in doubtful]
            ids = [each.entry_id for each in unsure]
            script = ACK.command(
                [source.key, source.notes, source.feed.settled],
                [source.group, self._consumer, source.deletes, source.notes_prefix, *ids],
            )
            self._add(source.key, script, [indices[place] for place in doubtful], unsure, _each)
            indices = [index for place, index in enumerate(indices) if place not in doubtful]
            held = [each for place, each in enumerate(held) if place not in doubtful]
        if not held:
            return
        ids = [each.entry_id for each in held]
        forgetting: Sequence[Any] = ("XACK", source.key, source.group, *ids)
        if not source.is_inbox:
            forgetting = DONE.command([source.key, source.feed.settled], [source.group, *ids])
        self._add(source.key, forgetting, indices, held, _counted(len(ids)))
        if source.is_inbox:
            self._add(source.key, ("XDEL", source.key, *ids), (), (), _nothing)
        if noted := [source.notes_prefix.encode() + each.entry_id for each in held if each.noted]:
            self._add(source.key, ("HDEL", source.notes, *noted), (), (), _nothing)

    def move(
        self,
        source: StreamSource,
        target: str,
        kind: str,
        entries: Sequence[tuple[int, HeldEntry, float, list[Any]]],
        settled: Settled,
    ) -> None:
        """Writes entries elsewhere, after a delay in seconds, and removes them here if that succeeded."""
        batch: list[tuple[int, HeldEntry, float, list[Any]]] = []
        size = 0
        for entry in entries:
            batch.append(entry)
            size += sum(len(value) for value in entry[3] if isinstance(value, str | bytes))
            if len(batch) >= _MOVES_AT_ONCE or size >= _BYTES_AT_ONCE:
                self._move(source, target, kind, batch, settled)
                batch, size = [], 0
        if batch:
            self._move(source, target, kind, batch, settled)

    def _move(
        self,
        source: StreamSource,
        target: str,
        kind: str,
        batch: list[tuple[int, HeldEntry, float, list[Any]]],
        settled: Settled,
    ) -> None:
        arguments: list[Any] = [
            source.group,
            self._consumer,
            source.deletes,
            source.notes_prefix,
            kind,
        ]
        for _index, held, delay, fields in batch:
            arguments += [held.entry_id, max(0, round(delay * 1000)), len(fields), *fields]
        self._add(
            source.key,
            MOVE.command([source.key, source.notes, target, source.feed.settled], arguments),
            [index for index, *_ in batch],
            [held for _, held, *_ in batch],
            _each if kind == "stream" else _parking(source.feed, [delay for *_, delay, _ in batch], settled),
        )

    def note(
        self,
        source: StreamSource,
        indices: Sequence[int],
        held: Sequence[HeldEntry],
        owner: str,
        settled: Settled,
    ) -> None:
        """Stores the states of entries that stay in place; see ``settle`` for ``owner``."""
        feed = source.feed
        arguments: list[Any] = [source.group, self._consumer, source.notes_prefix, owner, feed.topic]
        for each in held:
            arguments += [each.entry_id, each.state.encode()]
        script = NOTE.command([source.key, source.notes, feed.settled, feed.losses], arguments)
        self._add(source.key, script, indices, held, _noting(feed, settled))

    def _add(
        self,
        key: str,
        command: Sequence[Any],
        indices: Sequence[int],
        held: Sequence[HeldEntry],
        judge: Judge,
    ) -> None:
        self._commands.append((key, command))
        self._judges.append((indices, held, judge))

    # --- doing it -----------------------------------------------------------------------------------------

    async def carry_out(self, pipe: Pipe, results: list[Result]) -> None:
        """Sends all commands, and records the result of each outcome."""
        replies = await pipe.call_many(self._commands)
        for (indices, held, judge), reply in zip(self._judges, replies, strict=True):
            found = [_failed(reply) for _ in indices] if isinstance(reply, RedisFailure) else judge(reply)
            if found is None:
                continue
            for place, index in enumerate(indices):
                result = found[place]
                if held:
                    result = _judged(held[place], result)
                results[index] = result


def _judged(held: HeldEntry, result: Result) -> Result:
    """Corrects the result of a repeated outcome, which an attempt with a lost reply may have done."""
    if isinstance(result, RedisFailure) and result.is_uncertain:
        held.tried = True
    if isinstance(result, _Gone) and held.tried:
        return None
    return result


class _Gone(LeaseLost):
    """Raised when the entry has no owner."""


def _lost() -> LeaseLost:
    return LeaseLost("another consumer has claimed the message, because its lease had ended")


def _gone() -> LeaseLost:
    return _Gone("the message is no longer pending for this group: another consumer has settled it")


def _failed(failure: RedisFailure) -> BusError:
    # Without its group an entry has no owner; the recreated group delivers it again.
    return _gone() if failure.kind == "no group" else failure


def _nothing(_reply: Any) -> None:
    return None


def _counted(count: int) -> Judge:
    """Judges XACK, which returns the number of acknowledged entries: the first ones count as missing."""

    def judge(reply: Any) -> list[Result] | None:
        missing = count - int(reply)
        if not missing:
            return None
        return [_gone() if place < missing else None for place in range(count)]

    return judge


def _each(reply: Any) -> list[Result]:
    """Judges scripts that return a result for each entry."""
    results: list[Result] = []
    for answer in reply:
        if answer == 1:
            results.append(None)
        elif answer == 0:
            results.append(_gone())
        elif answer == -1:
            results.append(_lost())
        else:
            text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
            results.append(failure_of(ResponseError(text.removeprefix("-")), "the server"))
    return results


def _parking(feed: Feed, delays: Sequence[float], settled: Settled) -> Judge:
    """Judges parking: the score of each parked retry is a success, and is kept."""

    def judge(reply: Any) -> list[Result]:
        answers: list[Any] = []
        for answer, delay in zip(reply, delays, strict=True):
            if isinstance(answer, bytes) and answer.isdigit():
                settled.parked.append(Parked(feed, answer.decode(), delay))
                answer = 1
            answers.append(answer)
        return _each(answers)

    return judge


def _noting(feed: Feed, settled: Settled) -> Judge:
    """Judges notes of entries that stay in place, unless they are gone from the stream."""

    def judge(reply: Any) -> list[Result]:
        settled.lost.extend(feed for answer in reply if answer == 2)
        return _each([1 if answer == 2 else answer for answer in reply])

    return judge


async def settle(
    pipe: Pipe,
    consumer: str,
    outcomes: Sequence[Outcome],
    is_sure: Callable[[int], bool],
    in_place: str | None = None,
) -> Settled:
    """Carries out the outcomes of entries of groups.

    If released entries must keep their order, ``in_place`` is their next owner: "" if this consumer delivers
    them again, ``NOBODY`` if another one is to claim them.
    """
    settled = Settled([None] * len(outcomes))
    settlement = SettlementCommands(consumer, is_sure)
    acks: dict[StreamSource, tuple[list[int], list[HeldEntry]]] = {}
    notes: dict[tuple[StreamSource, str], tuple[list[int], list[HeldEntry]]] = {}
    moves: dict[tuple[StreamSource, str, str], list[tuple[int, HeldEntry, float, list[Any]]]] = {}
    for index, outcome in enumerate(outcomes):
        held: HeldEntry = outcome.receipt
        source = held.source
        action = outcome.action
        if action == "ack":
            indices, entries = acks.setdefault(source, ([], []))
            indices.append(index)
            entries.append(held)
            continue
        if action == "dead_letter":
            assert outcome.letter is not None, "a dead letter is stored"
            fields = letter_fields(outcome.letter, held.message, held.published_at, source.group)
            place = (source, source.feed.dead, "stream")
            moves.setdefault(place, []).append((index, held, 0.0, fields))
            continue
        held.state = EntryState(outcome.attempt, 0, outcome.history, outcome.waited)
        if action == "hold" or in_place is not None:
            held.noted = True
            owner = "" if action == "hold" or in_place is None else in_place
            indices, entries = notes.setdefault((source, owner), ([], []))
            indices.append(index)
            entries.append(held)
            continue
        fields = returning_fields(held.message, held.published_at, held.state)
        if action == "retry" and outcome.delay > 0:
            place = (source, source.feed.parked, "parked")
        else:
            place = (source, source.feed.inbox.key, "stream")
        moves.setdefault(place, []).append((index, held, outcome.delay, fields))
    for source, (indices, entries) in acks.items():
        settlement.acknowledge(source, indices, entries)
    for (source, owner), (indices, entries) in notes.items():
        settlement.note(source, indices, entries, owner, settled)
    for (source, target, kind), batch in moves.items():
        settlement.move(source, target, kind, batch, settled)
    await settlement.carry_out(pipe, settled.results)
    return settled
