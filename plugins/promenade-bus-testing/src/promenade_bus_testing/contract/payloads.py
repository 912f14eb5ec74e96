"""Contract tests of payloads: all data of an event arrives unchanged."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest

from bus_core import BusError, SerializationError, Topic
from promenade_bus_testing.contract.checks import assert_once
from promenade_bus_testing.contract.events import THING, Happened
from promenade_bus_testing.contract.harness import Harness
from promenade_bus_testing.contract.outcomes import raising
from promenade_bus_testing.contract.running import contract

__all__ = ["NAUGHTY", "PayloadTests"]

NAUGHTY = [
    "",
    " ",
    "\t\n\r\x0b\x0c",
    "\x00",
    "a\x00b",
    "\x01\x02\x1b[31m\x7f\x80\x9f",
    "\u2028\u2029\u0085",
    "\ufeff",
    "\u202e right to left",
    "\u0646\u0635 \u0639\u0631\u0628\u064a",
    "\u4e2d\u6587 \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4",
    "e\u0301 \u00e9",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\ufffd\uffff\U0010ffff",
    "Z\u0336a\u0335l\u0334g\u0338o\u0337" * 10,
    "null",
    "None",
    "undefined",
    "true",
    "NaN",
    "-Infinity",
    "1e1000",
    "0x7f",
    "1_000",
    "08",
    "{}",
    "[]",
    '{"$ref": "#"}',
    '"',
    "\\",
    "\\u0000",
    "\\ud800",
    "'; DROP TABLE events; --",
    "1' OR '1'='1",
    "<script>alert(1)</script>",
    "<!--#exec cmd=ls-->",
    "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    "%s %d %n %x",
    "{0.__class__} {event}",
    "${HOME} $HOME `id` $(id)",
    "../../etc/passwd",
    "C:\\nul\\con.txt",
    "a,b;c|d&e=f",
    "\r\nSet-Cookie: a=b\r\n\r\n",
    "*3\r\n$3\r\nDEL\r\n$1\r\na\r\n",
    "+OK\r\n",
    ">",
    "$",
    "*",
    "#",
    "{topic}",
    "__proto__",
    "constructor",
    "=cmd|' /C calc'!A0",
    "x" * 10_000,
]
SURROGATES = ["\ud800", "a\udfffb", "\udc80"]


class PayloadTests:
    """The fields that events carry."""

    @contract()
    async def test_sizes(self, harness: Harness) -> None:
        """Empty and large events arrive unchanged, even with several hundred kilobytes."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        sizes = [0, 1, 1_000, 65_535, 65_536, 65_537, harness.scale(600_000, 900_000)]
        events = [
            Happened(aggregate_id=UUID(int=number), number=number, text="x" * size)
            for number, size in enumerate(sizes)
        ]
        for event in events:
            await harness.finish(bus.publish(THING, event), f"{len(event.text)} characters are published")
        await harness.until(lambda: len(listener.done) >= len(sizes), "all events are handled")
        assert sorted(listener.events, key=lambda event: event.number) == events

    @contract()
    async def test_naughty_text(self, harness: Harness) -> None:
        """Any text arrives unchanged, in a field, in metadata, in headers, and in the key."""
        topic = Topic("contract.naughty.happened", Happened, key=lambda event: event.text)
        bus = await harness.bus()
        listener = await harness.listen(bus, topic, ordered=harness.suite.features.ordered)
        events = [
            Happened(
                aggregate_id=UUID(int=number), number=number, text=text, metadata={"trace": text, text: "x"}
            )
            for number, text in enumerate(NAUGHTY)
        ]
        for event in events:
            headers = {"note": event.text, event.text: "x"}
            await harness.finish(bus.publish(topic, event, headers=headers), f"{event.text!r} is published")
        await harness.until(lambda: len(listener.done) >= len(NAUGHTY), "all events are handled")
        await harness.drain()
        assert_once(listener.numbers, range(len(NAUGHTY)))
        for call in listener.calls:
            text = NAUGHTY[call.number]
            assert call.event == events[call.number]
            assert call.delivery is not None
            assert {**call.delivery.headers} == {"note": text, text: "x"}
        assert bus.state().lost == 0

    @contract()
    async def test_naughty_errors(self, harness: Harness) -> None:
        """Any text of an error appears in its dead letter, and causes no other failure."""
        texts = [*NAUGHTY[:-1], *SURROGATES]
        bus = await harness.bus(retry={"policy": "none"})
        listener = await harness.listen(bus, act=raising(*(ValueError(text) for text in texts)))
        for number in range(len(texts)):
            await harness.publish(bus, number)
            await harness.drain()
        letters = await bus.dead_letters.list(limit=len(texts) + 1)
        assert len(letters) == len(listener.calls) == len(texts)
        told = {letter.attempts[0].error for letter in letters}
        assert {f"ValueError: {text}" if text else "ValueError" for text in NAUGHTY[:-1]} <= told

    @contract()
    async def test_lone_surrogates(self, harness: Harness) -> None:
        """Text that cannot be encoded is refused by the event or by ``publish``; nothing else breaks."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        accepted: list[int] = []
        for number, text in enumerate(SURROGATES):
            for given, headers in (
                ({"number": number, "text": text}, None),
                ({"number": number + 10, "metadata": {"a": text}}, None),
                ({"number": number + 20}, {"a": text}),
            ):
                try:
                    event = Happened(aggregate_id=UUID(int=1), **cast(Any, given))
                    await harness.finish(bus.publish(THING, event, headers=headers), "it is published")
                except BusError:
                    continue
                accepted.append(event.number)
        await harness.publish(bus, 99)
        await harness.until(lambda: {99, *accepted} <= {*listener.done}, "what was accepted is handled")
        await harness.drain()
        assert_once(listener.numbers, [*accepted, 99])

    @contract()
    async def test_one_bad_value_harms_itself(self, harness: Harness) -> None:
        """``publish`` refuses headers and keys that cannot be sent, and accepts concurrent valid ones."""
        bus = await harness.bus()
        keys: list[Any] = [lambda _: 7, lambda _: SURROGATES[0], lambda event: event.absent]
        topics = [
            Topic(f"contract.bad{number}.happened", Happened, key=key) for number, key in enumerate(keys)
        ]
        bad: list[tuple[Topic[Happened], Any, type[Exception]]] = [
            (THING, {"a": 1}, TypeError),
            (THING, {"a": b"x"}, TypeError),
            (THING, {1: "a"}, TypeError),
            (THING, {"a": None}, TypeError),
            *((THING, {"a": text}, SerializationError) for text in SURROGATES),
            *((THING, {text: "a"}, SerializationError) for text in SURROGATES),
            *((topic, None, SerializationError) for topic in topics),
        ]
        listener = await harness.listen(bus)
        for topic in topics:
            await harness.listen(bus, topic, name=topic.name.replace(".", "-"))
        good = [*range(2 * len(bad))]
        calls = [
            bus.publish(topic, Happened(aggregate_id=UUID(int=1), number=-1), headers=headers)
            for topic, headers, _ in bad
        ]
        others = [bus.publish(THING, Happened(aggregate_id=UUID(int=1), number=number)) for number in good]
        mixed = [each for three in zip(others[::2], calls, others[1::2], strict=True) for each in three]

        async def publish_all() -> list[BaseException | None]:
            return await asyncio.gather(*mixed, return_exceptions=True)

        results = await harness.finish(publish_all(), "all are answered")
        assert [type(each) for each in results[1::3]] == [error for *_, error in bad]
        assert [*results[::3], *results[2::3]] == [None] * len(good)
        await harness.until(lambda: len(listener.done) >= len(good), "the others are handled")
        await harness.drain()
        assert_once(listener.numbers, good)
        assert bus.state().lost == 0

    @contract()
    async def test_unicode_metadata_and_headers(self, harness: Harness) -> None:
        """Metadata and headers keep their names and texts in any script, and empty values."""
        bus = await harness.bus()
        listener = await harness.listen(bus, act=raising(ValueError("once")))
        texts = {
            "": "empty name",
            "empty": "",
            "\u043a\u043b\u044e\u0447": "\u0437\u043d\u0430\u0447\u0435\u043d\u0438\u0435",
            "\U0001f511": "\U0001f4a1",
            "Case": "a",
            "case": "b",
            "id": "c",
            "topic": "d",
            "trace-id": "e" * 2_000,
        }
        event = Happened(aggregate_id=UUID(int=7), metadata=texts)
        await harness.finish(bus.publish(THING, event, headers=texts), "the event is published")
        await harness.until(lambda: listener.done, "the event is handled")
        for call in listener.calls:
            assert call.event == event
            assert {**call.event.metadata} == texts
            assert call.delivery is not None
            assert {**call.delivery.headers} == texts

    @contract()
    async def test_headers_are_bounded(self, harness: Harness) -> None:
        """Headers of 64 KiB, names and values together, arrive; ``publish`` refuses larger ones."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        most = {"a" * 1_000: "b" * 60_000, "c": "\x00" * 4_535}
        event = Happened(aggregate_id=UUID(int=7), number=1)
        await harness.finish(bus.publish(THING, event, headers=most), "the event is published")
        with pytest.raises(SerializationError, match="headers"):
            await bus.publish(THING, event, headers={**most, "d": ""})
        await harness.until(lambda: listener.done, "the event is handled")
        await harness.drain()
        (call,) = listener.calls
        assert call.delivery is not None
        assert {**call.delivery.headers} == most

    @contract()
    async def test_times_and_ids(self, harness: Harness) -> None:
        """The id and the time of an event arrive exactly, even for times in the distant past or future."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        times = [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(2038, 1, 19, 3, 14, 8, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        ]
        events = [
            Happened(aggregate_id=UUID(int=2**128 - 1 - number), number=number, occurred_at=time)
            for number, time in enumerate(times)
        ]
        for event in events:
            await harness.finish(bus.publish(THING, event), "the event is published")
        await harness.until(lambda: len(listener.done) >= len(times), "all events are handled")
        got = sorted(listener.events, key=lambda event: event.number)
        assert got == events
        assert [event.occurred_at.utcoffset() for event in got] == [timedelta()] * len(times)

    @contract()
    async def test_the_same_event_again(self, harness: Harness) -> None:
        """An event that is published twice arrives twice, with the same id."""
        bus = await harness.bus()
        listener = await harness.listen(bus)
        event = Happened(aggregate_id=UUID(int=7), number=1)
        for _ in range(2):
            await harness.finish(bus.publish(THING, event), "the event is published")
        await harness.until(lambda: len(listener.done) >= 2, "it is handled twice")
        await harness.drain()
        assert listener.events == [event, event]

    @contract()
    @pytest.mark.parametrize(
        "name", ["a", "A-b_c.D9", "x" * 200, ".".join("abcdefghij" * 10), "0.0-_.0"], ids=len
    )
    async def test_names_of_topics(self, harness: Harness, name: str) -> None:
        """Every valid topic name works, including the shortest and the longest."""
        topic = Topic(name, Happened)
        bus = await harness.bus()
        listeners = [
            await harness.listen(bus, topic, "by-name"),
            await harness.listen(bus, "#", "by-pattern"),
        ]
        await harness.publish(bus, 1, topic=topic)
        await harness.until(lambda: all(each.done for each in listeners), "the event is handled")
        assert [[call.delivery.topic for call in each.calls if call.delivery] for each in listeners] == [
            [name],
            [name],
        ]

    @contract()
    @pytest.mark.parametrize("name", ["a", "x" * 200, "A:b.c_d-9", "worker:1.2.3"], ids=len)
    async def test_names_of_subscriptions(self, harness: Harness, name: str) -> None:
        """Every valid subscription name works, including the longest, and appears unchanged in letters."""
        bus = await harness.bus(retry={"policy": "none"})
        listener = await harness.listen(bus, name=name, act=raising(ValueError("no")))
        await harness.publish(bus, 1, 2)
        await harness.drain()
        assert_once(listener.numbers, [1, 2])
        assert [letter.subscription for letter in await bus.dead_letters.list(subscription=name)] == [name]
