"""Contract tests of the view of the whole storage, and of replays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import uuid4

import pytest

from bus_core import Bus, PermanentError, Topic, UnknownSubscription
from bus_core.abc import AdministeredAdapter, Administration, GroupFigures, Replayed, ReplayFilter
from promenade_bus_testing.contract.checks import assert_once
from promenade_bus_testing.contract.events import OTHER, THING, Happened
from promenade_bus_testing.contract.harness import Call, Harness
from promenade_bus_testing.contract.outcomes import raising
from promenade_bus_testing.contract.running import contract

__all__ = ["AdministrationTests"]

GROUP = "contract.listener"
EVERYTHING = ReplayFilter()


def admin_of(bus: Bus) -> Administration:
    """The view of the storage of a started bus."""
    return cast(AdministeredAdapter, bus.adapter).admin


async def figures_of(harness: Harness, bus: Bus) -> dict[str, GroupFigures]:
    """The figures of each group, by the name of the subscription."""
    told = await harness.finish(admin_of(bus).groups(), "the groups are told")
    return {each.subscription: each for each in told}


async def replayed(harness: Harness, bus: Bus, where: ReplayFilter = EVERYTHING) -> Replayed:
    """Replays everything selected, step by step."""
    replay_id = uuid4().hex
    while True:
        step = admin_of(bus).replay(GROUP, where, replay_id=replay_id, limit=7)
        told = await harness.finish(step, "a step of a replay")
        if told.is_done:
            return told


class AdministrationTests:
    """Administration."""

    @contract("admin")
    async def test_groups_are_told(self, harness: Harness) -> None:
        """Each group is listed with its instances, its unsettled events, and its dead letters."""
        bus = await harness.bus()
        assert isinstance(bus.adapter, AdministeredAdapter)
        gate = harness.gate()

        async def wait(call: Call) -> None:
            if call.number == 0:
                raise PermanentError("never")
            await gate.wait()

        await harness.listen(bus, act=wait, concurrency=1)
        await harness.listen(bus, OTHER, "other")
        before = await figures_of(harness, bus)
        await harness.publish(bus, 0, 1, 2)

        def one_is_dead_and_one_runs() -> bool:
            state = bus.state()
            dead = sum(each.dead_lettered for each in state.subscriptions)
            return dead == 1 and state.running_handlers == 1

        await harness.until(one_is_dead_and_one_runs, "one event is dead, and one is in a handler")
        told = await figures_of(harness, bus)
        assert [(each.group, each.topic) for each in told.values()] == [
            (GROUP, THING.name),
            ("contract.other", OTHER.name),
        ]
        group = told["listener"]
        assert (group.instances, group.backlog, group.dead) == (1, 2, 1)
        if group.lag is not None and group.retries is not None:
            assert group.lag + group.in_flight + group.retries == 2
        if group.published is not None:
            assert group.published - (before["listener"].published or 0) == 3
        gate.set()
        await harness.drain()
        group = (await figures_of(harness, bus))["listener"]
        assert (group.backlog, group.in_flight, group.oldest) == (0, 0, None)

    @contract("admin")
    async def test_replay_hands_out_again(self, harness: Harness) -> None:
        """A replay hands each settled event to one group again, once, and the handler can see it."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        other = await harness.listen(bus, name="other")
        events = await harness.publish(bus, *range(20), headers={"trace": "abc"})
        await harness.drain()
        counting = admin_of(bus).replay(GROUP, EVERYTHING, replay_id=None, limit=1)
        counted = await harness.finish(counting, "a replay is counted")
        assert counted == Replayed(events=20, unsettled=0, is_done=True)
        assert await replayed(harness, bus) == counted
        await harness.until(lambda: len(listener.done) >= 40, "the replayed events are handled")
        await harness.drain()
        assert_once(listener.done[20:], range(20))
        assert_once(other.done, range(20))
        for call in listener.calls[20:]:
            assert call.delivery is not None
            assert (call.delivery.redriven, call.attempt) == (True, 1)
            assert {**call.delivery.headers} == {"trace": "abc"}
        assert {call.event for call in listener.calls[20:]} == {*events}

    @contract("admin")
    async def test_replay_selects(self, harness: Harness) -> None:
        """A replay selects events by id, time of storing, and topic."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        first, second, _third = await harness.publish(bus, 1, 2, 3)
        await harness.drain()
        ids = frozenset({str(first.event_id), str(second.event_id), "unknown"})
        yesterday, tomorrow = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
        for where, numbers in (
            (ReplayFilter(event_ids=ids), [1, 2]),
            (ReplayFilter(stored_since=tomorrow), []),
            (ReplayFilter(stored_before=yesterday), []),
            (ReplayFilter(stored_since=yesterday, stored_before=tomorrow), [1, 2, 3]),
            (ReplayFilter(topic="elsewhere.#"), []),
            (ReplayFilter(topic="contract.#", event_ids=frozenset({str(second.event_id)})), [2]),
        ):
            listener.done.clear()
            assert (await replayed(harness, bus, where)).events == len(numbers)
            await harness.until(lambda: len(listener.done) >= len(numbers), "the events are handled")  # noqa: B023
            await harness.drain()
            assert_once(listener.done, numbers)

    @contract("admin")
    async def test_replay_leaves_the_unsettled(self, harness: Harness) -> None:
        """A replay passes over events that the group has not settled, because these come anyway."""
        bus = await harness.bus()
        gate = harness.gate()

        async def wait(call: Call) -> None:
            if call.number:
                await gate.wait()

        listener = await harness.listen(bus, act=wait)
        await harness.publish(bus, 0)
        await harness.drain()
        await harness.publish(bus, 1, 2)
        await harness.until(lambda: listener.running == 2, "the handlers have begun")
        assert await replayed(harness, bus) == Replayed(events=1, unsettled=2, is_done=True)
        gate.set()
        await harness.until(lambda: len(listener.done) >= 4, "all are handled")
        await harness.drain()
        assert sorted(listener.done) == [0, 0, 1, 2]

    @contract("admin")
    async def test_replay_continues(self, harness: Harness) -> None:
        """An interrupted replay continues with its id, and a finished one hands out nothing more."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        await harness.publish(bus, *range(10))
        await harness.drain()

        async def step_of(admin: Administration) -> Replayed:
            step = admin.replay(GROUP, EVERYTHING, replay_id="mine", limit=4)
            return await harness.finish(step, "a step of a replay")

        told = await step_of(admin_of(bus))
        assert (told.is_done, told.events) == (False, 4)
        another = admin_of(await harness.bus())
        while not told.is_done:
            told = await step_of(another)
        assert await step_of(another) == told == Replayed(events=10, unsettled=0, is_done=True)
        await harness.until(lambda: len(listener.done) >= 20, "the replayed events are handled")
        await harness.drain()
        assert_once(listener.done[10:], range(10))

    @contract("admin")
    async def test_replayed_event_dies(self, harness: Harness) -> None:
        """A replayed event that fails becomes a dead letter whose history begins with the replay."""
        topic = Topic("contract.replayed.happened", Happened)
        bus = await harness.bus()
        listener = await harness.listen(bus, topic)
        await harness.publish(bus, 1, topic=topic)
        await harness.drain()
        listener.act = raising(*(ValueError(str(index)) for index in range(6)))
        assert (await replayed(harness, bus)).events == 1
        await harness.until(lambda: len(listener.calls) >= 4, "all attempts are used up")
        await harness.drain()
        (letter,) = await bus.dead_letters.list()
        assert [attempt.error_type for attempt in letter.attempts] == ["Replayed", *["ValueError"] * 3]
        assert [attempt.number for attempt in letter.attempts] == [1, 1, 2, 3]

    @contract("admin")
    async def test_replay_needs_a_group(self, harness: Harness) -> None:
        """A replay to an unknown group is an error that names the nearest one."""
        bus = await harness.bus()
        await harness.listen(bus)
        with pytest.raises(
            UnknownSubscription, match=r"the group 'contract\.listen' .*; did you mean 'contract\.listener'"
        ):
            await admin_of(bus).replay("contract.listen", EVERYTHING, replay_id="x", limit=1)
