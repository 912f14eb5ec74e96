"""Contract tests of subscriptions: adding, removing, selecting, pausing, and isolation."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from bus_core import PermanentError, Topic, UnsupportedFeature
from promenade_bus_testing.contract.checks import assert_once
from promenade_bus_testing.contract.events import OTHER, THING, Happened, happened
from promenade_bus_testing.contract.harness import Call, Harness
from promenade_bus_testing.contract.running import contract

__all__ = ["SubscribingTests"]

PATTERNS = {
    "contract.thing.happened": ["contract.thing.happened"],
    "contract.*.happened": ["contract.thing.happened", "contract.other.happened"],
    "contract.thing.*": ["contract.thing.happened", "contract.thing.ended"],
    "*.thing.*": ["contract.thing.happened", "contract.thing.ended", "another.thing.ended"],
    "contract.#": [
        "contract",
        "contract.thing.happened",
        "contract.other.happened",
        "contract.thing.ended",
        "contract.a.b.c.d",
    ],
    "#.ended": ["contract.thing.ended", "another.thing.ended"],
    "contract.#.d": ["contract.a.b.c.d"],
    "*": ["contract"],
}


class SubscribingTests:
    """Subscribing."""

    @contract()
    async def test_subscribing_before_start(self, harness: Harness) -> None:
        """A subscription made before the start receives the first published event."""
        bus = harness.new_bus()
        listener = await harness.listen(bus)
        await harness.start(bus)
        await harness.publish(bus, 1, 2, 3)
        await harness.until(lambda: len(listener.done) >= 3, "the events are handled")
        assert_once(listener.numbers, [1, 2, 3])

    @contract()
    async def test_subscribing_while_traffic_flows(self, harness: Harness) -> None:
        """A subscription made under traffic gets all events after it is ready; the others miss none."""
        count = harness.scale(300, 10_000)
        bus = await harness.bus()
        first = await harness.listen(bus, name="first")
        published: list[int] = []

        async def publish_all() -> None:
            for number in range(count):
                published.append(number)
                await bus.publish(THING, happened(number))
                harness.progress += 1
                await asyncio.sleep(0)

        publishing = asyncio.ensure_future(publish_all())
        await harness.until(lambda: len(published) >= count // 3, "a third is published")
        second = await harness.listen(bus, name="second")
        since = len(published)
        await harness.until(lambda: len(published) >= count // 2, "half is published")
        third = await harness.listen(bus, "contract.thing.*", name="third", plain=True)
        since_third = len(published)
        await harness.until(publishing.done, "all events are published")
        await publishing
        await harness.until(
            lambda: (
                {*range(since, count)} <= {*second.done} and {*range(since_third, count)} <= {*third.done}
            ),
            "the new subscriptions get what followed",
        )
        await harness.drain()
        assert_once(first.numbers, range(count), "the first subscription")
        for listener in (second, third):
            assert len({*listener.numbers}) == len(listener.numbers)

    @contract()
    async def test_unsubscribing_while_traffic_flows(self, harness: Harness) -> None:
        """An unsubscribed handler is not called again; no event is repeated, and others miss nothing."""
        count = harness.scale(300, 10_000)
        bus = await harness.bus()
        staying = await harness.listen(bus, name="staying")
        leaving = await harness.listen(bus, name="leaving")
        await harness.publish(bus, *range(count // 3))
        await harness.finish(leaving.subscription.unsubscribe(), "the subscription leaves")
        called = len(leaving.calls)
        assert leaving.running == 0
        await harness.publish(bus, *range(count // 3, count))
        await harness.until(lambda: len(staying.done) >= count, "the other goes on")
        await harness.drain()
        assert len(leaving.calls) == called
        assert len({*leaving.numbers}) == called
        assert_once(staying.numbers, range(count), "the subscription that stays")

    @contract(without="durable")
    async def test_unsubscribing_settles(self, harness: Harness) -> None:
        """Unsubscribing returns when all events accepted for the subscription are settled."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        await harness.publish(bus, *range(20))
        await harness.finish(listener.subscription.unsubscribe(), "the subscription leaves")
        assert_once(listener.done, range(20))

    @contract("durable", "groups")
    async def test_unsubscribing_keeps_the_group(self, harness: Harness) -> None:
        """After unsubscribing, the next subscription of that name continues where the last one stopped."""
        bus = await harness.bus()
        former = await harness.listen(bus, name="worker")
        await harness.publish(bus, *range(20))
        await harness.finish(former.subscription.unsubscribe(), "the subscription leaves")
        await harness.publish(bus, *range(20, 40))
        latter = await harness.listen(bus, name="worker")
        await harness.until(lambda: len(former.done) + len(latter.done) >= 40, "all events are handled")
        await harness.drain()
        assert_once([*former.done, *latter.done], range(40), "the group")

    @contract()
    async def test_unsubscribing_one_of_many(self, harness: Harness) -> None:
        """Unsubscribing one subscription does not affect others of the topic, or patterns that match it."""
        bus = await harness.bus()
        listeners = [await harness.listen(bus, name=f"listener-{index}") for index in range(4)]
        pattern = await harness.listen(bus, "contract.#", name="pattern")
        await harness.publish(bus, 1)
        await harness.until(lambda: all(listener.done for listener in listeners), "the event is handled")
        await harness.finish(listeners[1].subscription.unsubscribe(), "one of them leaves")
        await harness.publish(bus, 2)
        others = [listeners[0], *listeners[2:], pattern]
        await harness.until(lambda: all(len(each.done) >= 2 for each in others), "the others go on")
        await harness.drain()
        assert listeners[1].numbers == [1]
        for listener in others:
            assert_once(listener.numbers, [1, 2], listener.subscription.name)

    @contract()
    async def test_name_is_free_again(self, harness: Harness) -> None:
        """After unsubscribing, the name may be used again, even on another topic."""
        bus = await harness.bus()
        for topic in (THING, OTHER, THING):
            listener = await harness.listen(bus, topic, "again")
            await harness.publish(bus, 1, topic=topic)
            await harness.until(partial(bool, listener.done), "the event is handled")
            await harness.drain()
            await harness.finish(listener.subscription.unsubscribe(), "the subscription leaves")
            assert listener.numbers == [1]

    @contract()
    async def test_patterns(self, harness: Harness) -> None:
        """``*`` matches one word, ``#`` any number of words; each event arrives once."""
        bus = await harness.bus()
        names = sorted({name for names in PATTERNS.values() for name in names})
        listeners = {
            pattern: await harness.listen(bus, pattern, f"pattern-{index}")
            for index, pattern in enumerate(PATTERNS)
        }
        for number, name in enumerate(names):
            await harness.publish(bus, number, topic=Topic(name, Happened))
        expected = sum(map(len, PATTERNS.values()))
        await harness.until(lambda: sum(len(each.done) for each in listeners.values()) >= expected, "handled")
        await harness.drain()
        got = {
            pattern: sorted(call.delivery.topic for call in listener.calls if call.delivery is not None)
            for pattern, listener in listeners.items()
        }
        assert got == {pattern: sorted(matched) for pattern, matched in PATTERNS.items()}

    @contract()
    async def test_pattern_covers_new_topics(self, harness: Harness) -> None:
        """A pattern matches topics that are first published long after it was subscribed."""
        bus = await harness.bus()
        listener = await harness.listen(bus, "contract.new.#")
        for number in range(5):
            topic = Topic(f"contract.new.number{number}.happened", Happened)
            await harness.publish(bus, number, number + 10, topic=topic)
            await harness.until(
                partial(listener.handled, number + 10), f"the new topic {topic.name} is covered"
            )
        await harness.drain()
        assert_once(listener.numbers, [*range(5), *range(10, 15)])

    @contract()
    async def test_overlapping_patterns(self, harness: Harness) -> None:
        """An event that matches several subscriptions, by name and by pattern, arrives once in each."""
        bus = await harness.bus()
        topics: list[Topic[Happened] | str] = [THING, "contract.#", "contract.*.happened", "#", "*.thing.*"]
        listeners = [
            await harness.listen(bus, topic, f"listener-{index}") for index, topic in enumerate(topics)
        ]
        await harness.publish(bus, *range(20))
        await harness.until(lambda: min(len(each.done) for each in listeners) >= 20, "all are handled")
        await harness.drain()
        for listener in listeners:
            assert_once(listener.numbers, range(20), listener.subscription.topic)

    @contract()
    async def test_where_selects(self, harness: Harness) -> None:
        """A subscription with ``where`` handles the selected events and counts the others as skipped."""
        bus = await harness.bus()
        listener = await harness.listen(bus, where=lambda event: event.number % 3 == 0)
        await harness.publish(bus, *range(30))
        await harness.until(lambda: len(listener.done) >= 10, "the selected events are handled")
        await harness.drain()
        assert_once(listener.numbers, range(0, 30, 3))
        state = listener.subscription.state
        assert (state.handled, state.skipped, state.dead_lettered) == (10, 20, 0)

    @contract()
    async def test_pause_and_resume(self, harness: Harness) -> None:
        """A paused subscription starts no handler, blocks no other, and handles everything after resuming."""
        bus = await harness.bus()
        paused = await harness.listen(bus, name="paused")
        other = await harness.listen(bus, name="other")
        await harness.publish(bus, *range(10))
        await harness.until(lambda: len(paused.done) >= 10, "the first events are handled")
        paused.subscription.pause()
        await harness.publish(bus, *range(10, 40))
        await harness.until(lambda: len(other.done) >= 40, "the other goes on")
        assert len(paused.calls) == 10
        assert paused.subscription.state.paused
        paused.subscription.resume()
        await harness.until(lambda: len(paused.done) >= 40, "what was held is handled")
        await harness.drain()
        assert_once(paused.numbers, range(40))

    @contract()
    async def test_concurrency_bounds_a_subscription(self, harness: Harness) -> None:
        """``concurrency`` is the number of handlers of a subscription that run at once."""
        bus = await harness.bus(worker_pool_size=8)
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        bounded = await harness.listen(bus, name="bounded", act=wait, concurrency=3)
        other = await harness.listen(bus, name="other")
        await harness.publish(bus, *range(20))
        await harness.until(lambda: bounded.running >= 3 and len(other.done) >= 20, "three of them run")
        gate.set()
        await harness.drain()
        assert bounded.most_at_once == 3
        assert_once(bounded.numbers, range(20))

    @contract()
    async def test_workers_bound_the_bus(self, harness: Harness) -> None:
        """``worker_pool_size`` is the number of handlers of all subscriptions that run at once."""
        bus = await harness.bus(worker_pool_size=4)
        gate = harness.gate()
        running = most = 0

        async def count(_call: Call) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            for _ in range(5):
                await asyncio.sleep(0)
            running -= 1

        listeners = [await harness.listen(bus, name=f"listener-{index}", act=count) for index in range(3)]
        await harness.publish(bus, *range(30))
        await harness.until(lambda: running >= 4, "four of them run")
        gate.set()
        await harness.until(lambda: min(len(each.done) for each in listeners) >= 30, "all are handled")
        assert most == 4

    @contract()
    async def test_slow_subscription_holds_up_no_other(self, harness: Harness) -> None:
        """While the handlers of one subscription hang, others receive every event."""
        bus = await harness.bus()
        gate = harness.gate()

        async def wait(_call: Call) -> None:
            await gate.wait()

        stuck = await harness.listen(bus, name="stuck", act=wait, concurrency=2)
        free = [
            await harness.listen(bus, name="free"),
            await harness.listen(bus, name="plain", plain=True),
            await harness.listen(bus, "contract.#", name="pattern"),
        ]
        await harness.publish(bus, *range(100))
        await harness.until(lambda: min(len(each.done) for each in free) >= 100, "the others go on")
        assert stuck.done == []
        gate.set()
        await harness.until(lambda: len(stuck.done) >= 100, "it goes on")
        await harness.drain()
        assert_once(stuck.numbers, range(100))

    @contract()
    async def test_from_now_on(self, harness: Harness) -> None:
        """A subscription that starts at the latest event receives no earlier event."""
        bus = await harness.bus()
        await harness.publish(bus, *range(10))
        await harness.drain()
        listener = await harness.listen(bus, start="latest")
        await harness.publish(bus, *range(10, 20))
        await harness.until(lambda: len(listener.done) >= 10, "the later events are handled")
        await harness.drain()
        assert_once(listener.numbers, range(10, 20))

    @contract("replay")
    async def test_from_the_earliest(self, harness: Harness) -> None:
        """A new subscription that starts at the earliest event receives every retained event, once."""
        bus = await harness.bus()
        first = await harness.listen(bus, name="first", start="earliest")
        await harness.publish(bus, *range(50))
        await harness.until(lambda: len(first.done) >= 50, "the events are handled")
        late = await harness.listen(bus, name="late", start="earliest")
        await harness.publish(bus, *range(50, 60))
        await harness.until(lambda: len(late.done) >= 60, "the late subscription catches up")
        await harness.drain()
        assert_once(late.numbers, range(60), "the late subscription")
        assert_once(first.numbers, range(60), "the first subscription")

    @contract()
    async def test_unclaimed_features_are_refused(self, harness: Harness) -> None:
        """A subscription that needs a feature is refused exactly when the adapter does not claim it."""
        bus = await harness.bus()
        needs: dict[str, dict[str, Any]] = {
            "groups": {"mode": "group"},
            "broadcast": {"mode": "broadcast"},
            "ordered": {"mode": harness.default_mode, "ordered": True},
            "replay": {
                "mode": "group" if harness.suite.features.groups else "broadcast",
                "start": "earliest",
            },
        }
        for feature, options in needs.items():
            if getattr(harness.suite.features, feature):
                await harness.listen(bus, name=f"needs-{feature}", **options)
            else:
                with pytest.raises(UnsupportedFeature, match=f"needs-{feature}"):
                    await harness.listen(bus, name=f"needs-{feature}", **options)

    @contract()
    async def test_counters_tell_the_truth(self, harness: Harness) -> None:
        """The counters of a subscription match the outcomes of its events."""
        bus = await harness.bus()

        def fail_some(call: Call) -> None:
            if call.number == 1:
                raise PermanentError("never")
            if call.number == 2 and call.attempt < 3:
                raise ValueError("twice")

        listener = await harness.listen(bus, act=fail_some, where=lambda event: event.number != 3)
        await harness.publish(bus, *range(6))
        await harness.drain()
        state = listener.subscription.state
        assert (state.handled, state.skipped, state.failed_attempts, state.retried) == (4, 1, 3, 2)
        assert (state.dead_lettered, state.redriven, state.queued, state.running) == (1, 0, 0, 0)
        assert state.waiting_retries == 0
