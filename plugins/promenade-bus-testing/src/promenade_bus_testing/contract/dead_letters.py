"""Contract tests of dead letters and their redrive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import attrs
import pytest

from bus_core import (
    BusError,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterNotFound,
    NoRetry,
    PermanentError,
    Topic,
    UnknownSubscription,
)
from bus_core.events import tally_of
from promenade_bus_testing.contract.checks import assert_once
from promenade_bus_testing.contract.events import OTHER, THING, Happened, NewHappened
from promenade_bus_testing.contract.harness import Call, Harness
from promenade_bus_testing.contract.outcomes import raising
from promenade_bus_testing.contract.running import contract

__all__ = ["DeadLetterTests"]


class Switch:
    """A handler that fails permanently until it is switched."""

    broken = True

    def __call__(self, call: Call) -> None:
        if self.broken:
            raise PermanentError(f"no {call.number}")


def criteria_of(where: DeadLetterFilter) -> dict[str, Any]:
    """A filter as keywords."""
    return {field.name: getattr(where, field.name) for field in attrs.fields(DeadLetterFilter)}


def apart(letters: Sequence[DeadLetter]) -> bool:
    """True when the last two letters are of different times."""
    return letters[-2].dead_at < letters[-1].dead_at


class DeadLetterTests:
    """Dead letters."""

    @contract()
    async def test_letter_tells_everything(self, harness: Harness) -> None:
        """A letter has the topic, subscription, event, key, headers, reason, body, and each attempt."""
        topic = Topic("contract.keyed.happened", Happened, key=lambda event: f"key-{event.number}")
        bus = await harness.bus(tracebacks=True)
        listener = await harness.listen(
            bus, topic, "failing", raising(ValueError("first"), OSError("second"), KeyError("third"))
        )
        before = harness.now
        (event,) = await harness.publish(bus, 7, topic=topic, headers={"trace": "abc"})
        await harness.drain()
        (letter,) = await bus.dead_letters.list()
        assert (letter.topic, letter.subscription, letter.key) == (topic.name, "failing", "key-7")
        assert letter.event_id == event.event_id
        assert {**letter.headers} == {"trace": "abc"}
        assert str(event.event_id).encode() in letter.body
        assert [(attempt.number, attempt.error) for attempt in letter.attempts] == [
            (1, "ValueError: first"),
            (2, "OSError: second"),
            (3, "KeyError: 'third'"),
        ]
        assert all("outcomes.py:" in attempt.place for attempt in letter.attempts), letter.attempts
        assert all("outcomes.py" in attempt.traceback for attempt in letter.attempts), letter.attempts
        times = [attempt.at for attempt in letter.attempts]
        assert [(at - times[0]).total_seconds() for at in times] == pytest.approx([0, 0.1, 0.3])
        assert before <= times[0] <= letter.dead_at
        assert await bus.dead_letters.get(letter.id) == letter
        assert len(listener.calls) == 3

    @contract()
    async def test_letters_are_listed(self, harness: Harness) -> None:
        """Letters are listed oldest first, by topic and subscription, up to the limit."""
        bus = await harness.bus()
        for name, topic in {"one": THING, "two": THING, "three": OTHER}.items():
            await harness.listen(bus, topic, name, Switch())
        for number in range(3):
            await harness.publish(bus, number)
            await harness.drain()
            await harness.advance(1)
            await harness.publish(bus, number, topic=OTHER)
            await harness.drain()
            await harness.advance(1)
        letters = bus.dead_letters
        listed = await letters.list()
        assert len(listed) == 9
        assert [letter.dead_at for letter in listed] == sorted(letter.dead_at for letter in listed)
        assert len({letter.id for letter in listed}) == 9
        assert {letter.subscription for letter in await letters.list(topic=THING.name)} == {"one", "two"}
        assert [letter.topic for letter in await letters.list(subscription="three")] == [OTHER.name] * 3
        assert await letters.list(topic=OTHER.name, subscription="one") == []
        of_two = await letters.list(subscription="two", limit=2)
        assert [letter.attempts[0].error for letter in of_two] == [
            "PermanentError: no 0",
            "PermanentError: no 1",
        ]
        with pytest.raises(DeadLetterNotFound):
            await letters.get("never-there")

    @contract()
    async def test_letters_are_paged(self, harness: Harness) -> None:
        """Page after page returns each letter once, oldest first; the cursor of the last page is None."""
        bus = await harness.bus()
        for name, topic in {"one": THING, "two": THING, "three": OTHER}.items():
            await harness.listen(bus, topic, name, Switch(), retry=NoRetry())
        for number in range(4):
            await harness.publish(bus, number)
            await harness.publish(bus, number, topic=OTHER)
            await harness.drain()
            await harness.advance(1)
        letters = bus.dead_letters
        assert await letters.count() == 12
        assert await letters.count(subscription="two") == 4
        assert await letters.count(topic=OTHER.name) == 4
        assert await letters.count(topic=OTHER.name, subscription="one") == 0
        for limit in (1, 5, 6, 12):
            found: list[DeadLetter] = []
            cursor: str | None = None
            for _ in range(12 // limit + 1):
                page = await letters.list(limit=limit, cursor=cursor)
                assert len(page) <= limit
                found += page
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert cursor is None
            assert len({letter.id for letter in found}) == len(found) == 12
            assert [letter.dead_at for letter in found] == sorted(letter.dead_at for letter in found)
        iterated = [letter.id async for letter in letters.iterate()]
        assert iterated == [letter.id for letter in found]
        of_two = await letters.list(subscription="two", limit=3)
        rest = await letters.list(subscription="two", cursor=of_two.next_cursor)
        assert [letter.subscription for letter in [*of_two, *rest]] == ["two"] * 4
        assert len({letter.id for letter in [*of_two, *rest]}) == 4
        assert [letter.topic async for letter in letters.iterate(topic=OTHER.name)] == [OTHER.name] * 4
        with pytest.raises(ValueError, match="cursor"):
            await letters.list(cursor="no cursor at all")

    @contract()
    async def test_pages_while_letters_come_and_go(self, harness: Harness) -> None:
        """Letters that exist from the first page to the last are listed once, while others come and go."""
        bus = await harness.bus()
        switch = Switch()
        listener = await harness.listen(bus, act=switch, retry=NoRetry())

        async def publish(*numbers: int) -> None:
            for number in numbers:  # one after the other, because letters are listed in the order of storing
                await harness.publish(bus, number)
                await harness.drain()

        await publish(*range(10))
        letters = bus.dead_letters
        first = await letters.list(limit=4)
        ids = [letter.id for letter in await letters.list()]
        assert [letter.id for letter in first] == ids[:4]
        # Remove the last listed letter, where the next page begins, another listed one, and one not listed
        # yet.
        switch.broken = False
        assert await letters.redrive([ids[0], ids[3], ids[6]]) == 3
        await harness.until(lambda: len(listener.done) == 3, "the redriven events are handled")
        switch.broken = True
        await publish(10, 11)
        second = await letters.list(limit=2, cursor=first.next_cursor)
        await publish(12)
        third = await letters.list(cursor=second.next_cursor)
        told = [letter.id for letter in [*second, *third]]
        assert told[:5] == [ids[4], ids[5], ids[7], ids[8], ids[9]]
        assert len({*told}) == len(told) <= 8
        assert third.next_cursor is None
        assert await letters.count() == 10

    @contract()
    async def test_letters_are_purged(self, harness: Harness) -> None:
        """Purging deletes only the letters that the filter selects; deleting all needs an empty filter."""
        bus = await harness.bus()
        for name, topic in {"one": THING, "two": THING, "three": OTHER}.items():
            await harness.listen(bus, topic, name, Switch())
        await harness.publish(bus, 1, 2)
        await harness.publish(bus, 1, 2, topic=OTHER)
        await harness.drain()
        letters = bus.dead_letters
        with pytest.raises(BusError):
            await letters.purge()
        assert await letters.purge(DeadLetterFilter(subscription="one")) == 2
        assert {letter.subscription for letter in await letters.list()} == {"two", "three"}
        assert await letters.purge(DeadLetterFilter(topic=OTHER.name)) == 2
        assert {letter.subscription for letter in await letters.list()} == {"two"}
        assert await letters.purge(DeadLetterFilter()) == 2
        assert await letters.list() == []

    @contract()
    async def test_letters_are_selected(self, harness: Harness) -> None:
        """Each criterion of a filter, and all of them together, select the same letters everywhere."""
        bus = await harness.bus()
        for name, topic in {"one": THING, "two": THING, "three": OTHER}.items():
            await harness.listen(bus, topic, name, Switch(), retry=NoRetry())
        (first,) = await harness.publish(bus, 1)
        await harness.publish(bus, 1, topic=OTHER)
        await harness.drain()
        await harness.advance(1)
        await harness.publish(bus, 22)
        await harness.drain()
        letters = bus.dead_letters
        every = await letters.list()
        assert len(every) == 5
        late = max(letter.dead_at for letter in every[:3]) + timedelta(microseconds=1)
        place = every[0].attempts[0].place
        filters: list[tuple[DeadLetterFilter, int]] = [
            (DeadLetterFilter(), 5),
            (DeadLetterFilter(topic="contract.#"), 5),
            (DeadLetterFilter(topic=OTHER.name.rpartition(".")[0] + ".*"), 1),
            (DeadLetterFilter(topic="nobody.#"), 0),
            (DeadLetterFilter(error="PermanentError: no 2"), 2),
            (DeadLetterFilter(error="no 22"), 2),
            (DeadLetterFilter(error="raised PermanentError"), 5),  # the reason
            (DeadLetterFilter(error=place), 5),
            (DeadLetterFilter(error="no .2"), 0),
            (DeadLetterFilter(dead_before=late), 3),
            (DeadLetterFilter(dead_after=late), 2),
            (DeadLetterFilter(dead_before=every[-1].dead_at, dead_after=late), 1 if apart(every) else 0),
            (DeadLetterFilter(event_id=first.event_id), 2),
            (DeadLetterFilter(event_id=uuid4()), 0),
            (DeadLetterFilter(ids=frozenset([every[0].id, every[4].id, "never-there"])), 2),
            (DeadLetterFilter(ids=frozenset()), 0),
            (DeadLetterFilter(ids=frozenset([every[0].id]), error="no 2"), 0),
            (DeadLetterFilter(topic="contract.#", subscription="one", error="no 1", dead_before=late), 1),
        ]
        for where, count in filters:
            expected = [letter.id for letter in every if where.selects(letter)]
            criteria = criteria_of(where)
            assert len(expected) == count, where
            assert await letters.count(**criteria) == count, where
            assert [letter.id for letter in await letters.list(**criteria)] == expected, where
            assert await letters.tally(**criteria) == tally_of(filter(where.selects, every)), where
            paged = await letters.list(**criteria, limit=1)
            assert [letter.id for letter in paged] == expected[:1], where
            rest = await letters.list(**criteria, cursor=paged.next_cursor) if count > 1 else []
            assert [letter.id for letter in rest] == expected[1:], where
        assert await letters.redrive(DeadLetterFilter(error="no 22", subscription="two")) == 1
        assert await letters.purge(DeadLetterFilter(ids=frozenset([every[0].id, "never-there"]))) == 1
        await harness.drain()
        assert await letters.purge(DeadLetterFilter(topic="contract.#", dead_before=late)) == 2
        assert await letters.count() == 2

    @contract()
    async def test_redrive_goes_to_who_failed(self, harness: Harness) -> None:
        """A redriven event goes to the subscription that failed, once, and to no other of its topic."""
        bus = await harness.bus()
        switch = Switch()
        failing = await harness.listen(bus, name="failing", act=switch)
        others = [
            await harness.listen(bus, name="other"),
            await harness.listen(bus, "contract.#", name="pattern"),
            await harness.listen(bus, name="plain", plain=True),
        ]
        (event,) = await harness.publish(bus, 1, headers={"trace": "abc"})
        await harness.drain()
        (letter,) = await bus.dead_letters.list()
        switch.broken = False
        assert await bus.dead_letters.redrive(letter) == 1
        await harness.until(lambda: failing.done, "the redriven event is handled")
        await harness.drain()
        assert failing.attempts == [(1, 1), (1, 1)]
        assert failing.events == [event] * 2
        again = failing.calls[1].delivery
        assert again is not None
        assert again.redelivered
        assert {**again.headers} == {"trace": "abc"}
        for other in others:
            assert_once(other.numbers, [1], other.subscription.name)
        assert await bus.dead_letters.list() == []

    @contract()
    async def test_redrive_happens_once(self, harness: Harness) -> None:
        """Redriving a letter again moves nothing, and neither does an unknown id."""
        bus = await harness.bus()
        switch = Switch()
        failing = await harness.listen(bus, act=switch)
        await harness.publish(bus, 1)
        await harness.drain()
        (letter,) = await bus.dead_letters.list()
        switch.broken = False
        assert await bus.dead_letters.redrive([letter.id, letter.id]) == 1
        assert await bus.dead_letters.redrive(letter) == 0
        assert await bus.dead_letters.redrive("never-there") == 0
        await harness.until(lambda: failing.done, "the redriven event is handled")
        await harness.drain()
        assert len(failing.calls) == 2

    @contract()
    async def test_redrive_by_filter(self, harness: Harness) -> None:
        """A filter redrives every letter that it selects, and leaves the others."""
        count = harness.scale(50, 1_000)
        bus = await harness.bus()
        switch = Switch()
        one = await harness.listen(bus, name="one", act=switch)
        two = await harness.listen(bus, name="two", act=switch)
        await harness.publish(bus, *range(count))
        await harness.drain()
        switch.broken = False
        assert await bus.dead_letters.redrive(DeadLetterFilter(subscription="one")) == count
        await harness.until(lambda: len(one.done) >= count, "the redriven events are handled")
        await harness.drain()
        assert_once(one.done, range(count))
        assert two.done == []
        assert len(await bus.dead_letters.list(limit=count + 1)) == count

    @contract()
    async def test_redriven_event_fails_again(self, harness: Harness) -> None:
        """A redriven event gets all its attempts again, and its new letter keeps the whole history."""
        bus = await harness.bus()
        listener = await harness.listen(bus, act=raising(*(ValueError(str(index)) for index in range(6))))
        await harness.publish(bus, 1)
        await harness.drain()
        (first,) = await bus.dead_letters.list()
        await bus.dead_letters.redrive(first)
        await harness.drain()
        assert listener.attempts == [(1, 1), (1, 2), (1, 3)] * 2
        (second,) = await bus.dead_letters.list()
        assert second.id != first.id
        assert [(attempt.number, attempt.error) for attempt in second.attempts] == [
            (number, f"ValueError: {index}") for index, number in enumerate([1, 2, 3, 1, 2, 3])
        ]

    @contract()
    async def test_redrive_without_its_subscription(self, harness: Harness) -> None:
        """A filter that names an unknown subscription without letters is an error."""
        bus = await harness.bus()
        await harness.listen(bus, act=Switch())
        await harness.publish(bus, 1)
        await harness.drain()
        with pytest.raises(UnknownSubscription, match="misspelt"):
            await bus.dead_letters.redrive(DeadLetterFilter(subscription="misspelt"))
        assert len(await bus.dead_letters.list()) == 1

    @contract()
    async def test_each_subscription_leaves_its_own_letter(self, harness: Harness) -> None:
        """Several subscriptions that fail on one event leave a letter each, and are redriven separately."""
        bus = await harness.bus()
        switch = Switch()
        listeners = {
            name: await harness.listen(bus, name=name, act=switch) for name in ("one", "two", "three")
        }
        await harness.publish(bus, 1)
        await harness.drain()
        letters = {letter.subscription: letter for letter in await bus.dead_letters.list()}
        assert {*letters} == {*listeners}
        assert len({letter.event_id for letter in letters.values()}) == 1
        switch.broken = False
        await bus.dead_letters.redrive(letters["two"])
        await harness.until(lambda: listeners["two"].done, "the redriven event is handled")
        await harness.drain()
        assert [len(listener.calls) for listener in listeners.values()] == [1, 2, 1]

    @contract(hook="inject")
    async def test_undecodable_is_dead_lettered_raw(self, harness: Harness) -> None:
        """Bytes that are not an event are dead-lettered at once, unchanged; the events around them arrive."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        await harness.publish(bus, 1)
        bodies = [b"", b"\xff\xfe\x00", b"{", b'{"id": "' + str(uuid4()).encode() + b'"}', b"[" * 100_000]
        for body in bodies:
            await harness.suite.inject(harness.place, THING.name, body)
        await harness.publish(bus, 2)
        await harness.until(
            lambda: listener.subscription.state.dead_lettered >= len(bodies), "all of them are dead-lettered"
        )
        await harness.drain()
        assert_once(listener.numbers, [1, 2])
        letters = await bus.dead_letters.list()
        assert sorted(letter.body for letter in letters) == sorted(bodies)
        assert {letter.reason for letter in letters} == {"cannot be decoded"}
        assert all(len(letter.attempts) == 1 for letter in letters)

    @contract("durable", "groups")
    async def test_another_version_waits_within_bounds(self, harness: Harness) -> None:
        """An event that only other code can decode waits over redeliveries, and finally becomes a letter."""
        bus = await harness.bus(unknown_version_wait="1s")
        listener = await harness.listen(bus)
        newer = await harness.bus()
        await newer.publish(Topic(THING.name, NewHappened), NewHappened(aggregate_id=uuid4(), number="7"))
        await harness.publish(bus, 1)
        await harness.until(lambda: listener.done, "the other event is handled")
        for _ in range(2):
            await harness.drain(bus)
            (letter,) = await bus.dead_letters.list()
            assert letter.reason == "cannot be decoded: no instance that knows version 2 came within 1 s"
            assert await bus.dead_letters.redrive(letter) == 1
        assert_once(listener.numbers, [1])

    @contract("durable")
    async def test_letters_outlive_the_bus(self, harness: Harness) -> None:
        """Letters are available to the next bus, which may redrive them."""
        first = await harness.bus()
        await harness.listen(first, name="failing", act=Switch(), retry=NoRetry())
        await harness.publish(first, 1)
        await harness.drain(first)
        (letter,) = await first.dead_letters.list()
        await harness.close(first)
        second = await harness.bus()
        listener = await harness.listen(second, name="failing")
        assert [found.id for found in await second.dead_letters.list()] == [letter.id]
        assert await second.dead_letters.redrive(letter.id) == 1
        await harness.until(lambda: listener.done, "the redriven event is handled")
        assert listener.attempts == [(1, 1)]
