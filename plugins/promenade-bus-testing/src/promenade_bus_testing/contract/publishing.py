"""Contract tests of publishing: events arrive once, unchanged, at the right subscriptions."""

from __future__ import annotations

import asyncio
import contextvars
from datetime import timedelta

import pytest

from bus_core import BusClosed, PublishManyError, Topic
from promenade_bus_testing.contract.checks import assert_once
from promenade_bus_testing.contract.events import OTHER, THING, Happened, happened
from promenade_bus_testing.contract.harness import Call, Harness
from promenade_bus_testing.contract.running import contract

__all__ = ["PublishingTests"]

_variable: contextvars.ContextVar[int] = contextvars.ContextVar("promenade_contract_variable")


class PublishingTests:
    """Publishing."""

    @contract()
    async def test_features_are_what_the_adapter_says(self, harness: Harness) -> None:
        """The features claimed by the test class are the features of the adapter."""
        bus = harness.new_bus()
        assert bus.adapter.features == harness.suite.features
        assert bus.adapter.name == bus.config.adapter
        await bus.close()

    @contract()
    async def test_publish_subscribe(self, harness: Harness) -> None:
        """Each published event is handled once, and equals the published one."""
        bus = await harness.bus()
        plain = await harness.listen(bus, name="plain", plain=True)
        detailed = await harness.listen(bus, name="detailed")
        events = await harness.publish(bus, *range(100))
        await harness.until(lambda: len(plain.done) + len(detailed.done) >= 200, "all events are handled")
        await harness.drain()
        for listener in (plain, detailed):
            assert_once(listener.numbers, range(100))
            assert sorted(listener.events, key=lambda event: event.number) == events
        assert bus.state().lost == 0

    @contract()
    async def test_volume(self, harness: Harness) -> None:
        """Of thousands of events none is lost or handled twice, on the fast path and on the others."""
        count = harness.scale(2_000, 50_000)
        bus = await harness.bus(buffer_size=100)
        listeners = [
            await harness.listen(bus, name="plain", plain=True),
            await harness.listen(bus, name="detailed"),
            await harness.listen(bus, "contract.thing.*", name="pattern"),
            await harness.listen(bus, OTHER, name="only-one", plain=True),
        ]

        async def publish() -> None:
            for number in range(count):
                await bus.publish(THING, happened(number))
                await bus.publish(OTHER, happened(number))
                harness.progress += 1

        await harness.finish(publish(), f"{2 * count} events are published")
        await harness.until(
            lambda: min(len(listener.done) for listener in listeners) >= count, "all events are handled"
        )
        await harness.drain()
        for listener in listeners:
            assert_once(listener.numbers, range(count), listener.subscription.name)

    @contract()
    async def test_concurrent_publishers_and_subscribers(self, harness: Harness) -> None:
        """With many publishers and many subscriptions of a topic, each subscription gets each event once."""
        publishers, each = 20, harness.scale(25, 500)
        bus = await harness.bus()

        async def give_way(call: Call) -> None:
            for _ in range(call.number % 3):
                await asyncio.sleep(0)

        listeners = [await harness.listen(bus, name=f"listener-{index}", act=give_way) for index in range(5)]

        async def publish(first: int) -> None:
            for number in range(first, first + each):
                await bus.publish(THING, happened(number))
                harness.progress += 1

        async def publish_all() -> None:
            await asyncio.gather(*(publish(index * each) for index in range(publishers)))

        await harness.finish(publish_all(), "all events are published")
        await harness.drain()
        await harness.until(
            lambda: min(len(listener.done) for listener in listeners) >= publishers * each, "all are handled"
        )
        await harness.drain()
        for listener in listeners:
            assert_once(listener.numbers, range(publishers * each), listener.subscription.name)

    @contract()
    async def test_concurrent_topics(self, harness: Harness) -> None:
        """With many topics, each with a publisher and a subscription, each event arrives once."""
        each = harness.scale(20, 500)
        bus = await harness.bus()
        topics = [Topic(f"contract.topic{index}.happened", Happened) for index in range(20)]
        listeners = [
            await harness.listen(bus, topic, name=f"of-{index}") for index, topic in enumerate(topics)
        ]

        async def publish_all() -> None:
            async def publish(index: int, topic: Topic[Happened]) -> None:
                for number in range(each):
                    await bus.publish(topic, happened(1000 * index + number))
                    harness.progress += 1

            await asyncio.gather(*(publish(index, topic) for index, topic in enumerate(topics)))

        await harness.finish(publish_all(), "all events are published")
        await harness.until(
            lambda: sum(len(listener.done) for listener in listeners) >= 20 * each, "all are handled"
        )
        await harness.drain()
        for index, listener in enumerate(listeners):
            assert_once(listener.numbers, range(1000 * index, 1000 * index + each), topics[index].name)

    @contract()
    async def test_topics_are_isolated(self, harness: Harness) -> None:
        """A subscription receives only the events of its own topic, however similar the names are."""
        names = ["a.b", "a.b.c", "a.bc", "a", "b", "b.a", "a-b", "a_b", "A.b", "a.b2", "contract.a.b"]
        bus = await harness.bus()
        topics = [Topic(name, Happened) for name in names]
        listeners = [
            await harness.listen(bus, topic, name=f"of-{index}") for index, topic in enumerate(topics)
        ]
        for number, topic in enumerate(topics):
            await harness.publish(bus, number, topic=topic)
        await harness.until(
            lambda: sum(len(listener.done) for listener in listeners) >= len(names), "handled"
        )
        await harness.drain()
        assert {topic.name: listener.numbers for topic, listener in zip(topics, listeners, strict=True)} == {
            name: [number] for number, name in enumerate(names)
        }

    @contract()
    async def test_publish_many(self, harness: Harness) -> None:
        """A batch of events for several topics arrives completely, each event once."""
        bus = await harness.bus()
        things = await harness.listen(bus, THING, "things")
        others = await harness.listen(bus, OTHER, "others")
        batch = [(OTHER if number % 3 == 0 else THING, happened(number)) for number in range(90)]
        await harness.finish(bus.publish_many(batch), "a batch is published")
        await harness.until(lambda: len(things.done) + len(others.done) >= 90, "the batch is handled")
        await harness.drain()
        assert_once(others.numbers, range(0, 90, 3))
        assert_once(things.numbers, (number for number in range(90) if number % 3))

    @contract()
    async def test_delivery_tells(self, harness: Harness) -> None:
        """A delivery has the topic, subscription, message id, attempt, publishing time and headers."""
        bus = await harness.bus()
        listener = await harness.listen(bus, "contract.*.happened", name="informed")
        (event,) = await harness.publish(bus, 1, topic=OTHER, headers={"trace": "abc", "empty": ""})
        await harness.until(lambda: listener.done, "the event is handled")
        (call,) = listener.calls
        assert call.delivery is not None
        assert call.delivery.topic == OTHER.name
        assert call.delivery.subscription == "informed"
        assert call.delivery.message_id == str(event.event_id)
        assert call.delivery.attempt == 1
        assert call.delivery.redelivered is False
        assert call.delivery.published_at.utcoffset() == timedelta()
        assert {**call.delivery.headers} == {"trace": "abc", "empty": ""}

    @contract()
    async def test_handlers_do_not_see_each_others_context(self, harness: Harness) -> None:
        """A context variable that a handler sets is unset in every other call of a handler."""
        bus = await harness.bus(worker_pool_size=3)
        seen: list[int | None] = []

        async def look_and_set(call: Call) -> None:
            seen.append(_variable.get(None))
            _variable.set(call.number)
            await asyncio.sleep(0)
            seen.append(None if _variable.get(None) == call.number else call.number)

        _variable.set(-1)
        for plain in (True, False):
            await harness.listen(bus, name=f"setting-{plain}", act=look_and_set, plain=plain)
        await harness.publish(bus, *range(30))
        await harness.until(lambda: len(seen) >= 120, "all events are handled")
        assert seen == [None] * 120

    @contract()
    async def test_handler_publishes(self, harness: Harness) -> None:
        """A handler may publish, even to its own topic; its events are handled once, and drained."""
        bus = await harness.bus(worker_pool_size=1, buffer_size=1)

        async def publish_two(call: Call) -> None:
            await bus.publish(OTHER, happened(call.number))
            if call.number < 50:
                await bus.publish(THING, happened(call.number + 1))

        things = await harness.listen(bus, THING, "things", publish_two)
        others = await harness.listen(bus, OTHER, "others")
        await harness.publish(bus, 0)
        await harness.drain()
        assert_once(things.done, range(51))
        assert_once(others.done, range(51))

    @contract()
    async def test_cancelled_publisher_leaves_the_others_alone(self, harness: Harness) -> None:
        """Cancelling some of many publishers does not affect the others, and repeats no event."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        publishers = [asyncio.ensure_future(bus.publish(THING, happened(number))) for number in range(60)]
        to_cancel = [range(3 * moment, 60, 24) for moment in range(8)]
        for numbers in to_cancel:  # before the batch, while it is collected, while it is sent
            for number in numbers:
                publishers[number].cancel()
            await asyncio.sleep(0)
        await harness.until(lambda: all(task.done() for task in publishers), "all publishers are done")
        await harness.drain()
        accepted = [number for number in range(60) if not publishers[number].cancelled()]
        assert {*range(60)} - {*accepted} <= {number for numbers in to_cancel for number in numbers}
        await harness.until(lambda: {*accepted} <= {*listener.done}, "accepted events are handled")
        await harness.drain()
        assert max(listener.numbers.count(number) for number in range(60)) == 1

    @contract()
    async def test_publishing_ends_with_the_bus(self, harness: Harness) -> None:
        """A closed bus refuses to publish; events accepted before are not affected."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        await harness.publish(bus, *range(20))
        await harness.until(lambda: len(listener.done) >= 20, "all events are handled")
        await harness.close(bus)
        with pytest.raises(BusClosed):
            await bus.publish(THING, happened(99))
        with pytest.raises(PublishManyError) as caught:
            await bus.publish_many([(THING, happened(99)), (OTHER, happened(99))])
        assert [type(result) for result in caught.value.results] == [BusClosed, BusClosed]
        assert_once(listener.numbers, range(20))
