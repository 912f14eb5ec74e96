"""Two versions of the code at once: what one of them cannot decode waits for an instance that can."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from bus_core import DeserializationError, Event, Message, Topic, event
from bus_core.serialization import JsonOptions, JsonSerializer
from bus_core.transport import pump
from support.buses import until
from support.handlers import ignore
from support.remote import Entry, Server, running_remote_bus


@event(type="order.placed", version=1)
class Old(Event):
    """As the running instance knows it."""

    number: int = 0


@event(type="order.placed", version=2)
class New(Event):
    """As the instance knows it that is being deployed."""

    number: int = 0
    currency: str


@event(type="order.placed", version=3)
class Retyped(Event):
    """A field has become another type: the old class cannot read it."""

    number: str = "none"


OLD = Topic("shop.order.placed", Old)
NEW = Topic("shop.order.placed", New)
RETYPED = Topic("shop.order.placed", Retyped)


def encoded(made: Event) -> bytes:
    return JsonSerializer(JsonOptions()).encode(made, topic="shop.order.placed", source="test")


def decode(body: bytes, event_class: type[Event]) -> Event:
    return JsonSerializer(JsonOptions()).decode(body, event_class=event_class)


def test_a_newer_version_that_fits_is_decoded() -> None:
    """Unknown fields are passed over: an additive change needs nobody to wait."""
    made = New(aggregate_id=uuid4(), number=7, currency="EUR")
    decoded = decode(encoded(made), Old)
    assert isinstance(decoded, Old)
    assert decoded.number == 7


@pytest.mark.parametrize(
    ("made", "known", "words"),
    [
        (Retyped(aggregate_id=uuid4(), number="x"), Old, "version 3 of Old is newer than version 1"),
        (Old(aggregate_id=uuid4()), New, "version 1 of New is older than version 2"),
    ],
)
def test_another_version_that_does_not_fit_says_so(made: Event, known: type[Event], words: str) -> None:
    """The error knows the version of the bytes, and says how it relates to what is known here."""
    with pytest.raises(DeserializationError, match=words) as caught:
        decode(encoded(made), known)
    assert caught.value.other_version in (1, 3)


def test_the_same_version_that_does_not_fit_is_no_matter_of_versions() -> None:
    """Bytes of the known version that do not fit are broken, and waiting changes nothing."""
    body = encoded(Old(aggregate_id=uuid4(), number=1)).replace(b'"number":1', b'"number":"x"')
    with pytest.raises(DeserializationError) as caught:
        decode(body, Old)
    assert caught.value.other_version is None


async def test_what_it_cannot_decode_goes_back_for_others() -> None:
    """It is parked for the group, with no attempt counted, so that an instance with other code gets it."""
    server = Server()
    async with running_remote_bus(server) as old, running_remote_bus(server) as new:
        await old.subscribe(OLD, ignore, name="audit").ready()
        await new.publish(RETYPED, Retyped(aggregate_id=uuid4(), number="x"))
        (group,) = server.groups.values()
        await until(lambda: group.parked, "it was given back")
        ((delay, entry),) = group.parked
        assert (delay, entry.attempt, entry.history) == (0.5, 1, ())
        assert await old.dead_letters.list() == []


async def test_it_does_not_wait_for_ever() -> None:
    """After unknown_version_wait in all it is a dead letter that says for which version nobody came."""
    server = Server()
    async with running_remote_bus(server, unknown_version_wait="3s") as bus:
        await bus.subscribe(OLD, ignore, name="audit").ready()
        async with running_remote_bus(server) as publishing:
            await publishing.publish(RETYPED, Retyped(aggregate_id=uuid4(), number="x"))
        (group,) = server.groups.values()
        delays: list[float] = []
        while not server.letters:
            await until(lambda: group.parked or server.letters, "it was given back, or up")
            delays += [delay for delay, _ in group.parked]
            server.due()
        assert delays == [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
        (letter,) = await bus.dead_letters.list()
    assert letter.reason == "cannot be decoded: no instance that knows version 3 came within 3 s"
    assert [attempt.number for attempt in letter.attempts] == [1]


@pytest.mark.parametrize("ahead", [timedelta(days=365), timedelta(days=-365)])
async def test_no_clock_says_how_long_it_waits(ahead: timedelta) -> None:
    """A server whose time of day is wrong makes it wait neither for ever nor not at all."""
    server = Server()
    async with running_remote_bus(server, unknown_version_wait="1s") as bus:
        await bus.subscribe(OLD, ignore, name="audit").ready()
        (group,) = server.groups.values()
        body = encoded(Retyped(aggregate_id=uuid4(), number="x"))
        group.ready.append(Entry(Message("1", OLD.name, "k", body), datetime.now(UTC) + ahead))
        group.changed()
        for _ in range(2):
            await until(lambda: group.parked, "it was given back")
            assert not server.letters
            server.due()
            await until(lambda: not group.parked, "it comes again")
        await until(lambda: server.letters, "it is dead")


async def test_a_letter_that_is_redriven_waits_again() -> None:
    """The wait for an instance that can decode it begins anew with a redrive."""
    server = Server()
    async with running_remote_bus(server, unknown_version_wait="500ms") as bus:
        await bus.subscribe(OLD, ignore, name="audit").ready()
        (group,) = server.groups.values()
        async with running_remote_bus(server) as publishing:
            await publishing.publish(RETYPED, Retyped(aggregate_id=uuid4(), number="x"))
        for _ in range(2):
            await until(lambda: group.parked, "it was given back")
            ((delay, entry),) = group.parked
            assert (delay, entry.attempt) == (0.5, 1)
            server.due()
            await until(lambda: server.letters, "it is dead")
            assert await bus.dead_letters.redrive([*server.letters]) == 1


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn is offered again and again, and others take it at once."""
    monkeypatch.setattr(pump, "_YIELD_TIME", 0.02)
    monkeypatch.setattr(pump, "_BETWEEN_YIELDS", 0.0)


def placed(number: int, key: int, cls: type[Any] = Old) -> Any:
    return cls(aggregate_id=UUID(int=key), number=number)


async def test_an_ordered_subscription_lets_newer_code_have_its_turn(soon: None) -> None:
    """An instance that cannot decode a message gives back unstarted ones, in order, and stands by."""
    server = Server()
    begun, ends = asyncio.Event(), asyncio.Event()
    seen: list[tuple[str, int, object]] = []

    async def slow(event: Old) -> None:
        begun.set()
        await ends.wait()
        seen.append(("old", event.aggregate_id.int, event.number))

    async def handle(event: Retyped) -> None:
        seen.append(("new", event.aggregate_id.int, event.number))

    async with running_remote_bus(server) as old, running_remote_bus(server) as new:
        await old.subscribe(OLD, slow, name="audit", ordered=True).ready()
        await new.subscribe(RETYPED, handle, name="audit", ordered=True).ready()
        await old.publish(OLD, placed(1, key=1))
        await begun.wait()
        await new.publish(RETYPED, placed("a", key=2, cls=Retyped))  # type: ignore[arg-type]
        await new.publish(RETYPED, placed("b", key=2, cls=Retyped))  # type: ignore[arg-type]
        await new.publish(RETYPED, placed("c", key=1, cls=Retyped))  # type: ignore[arg-type]
        (group,) = server.groups.values()
        await until(lambda: len(group.owned) == 1 and len(group.ready) == 3, "it has given back the rest")
        assert seen == []
        ends.set()
        await until(lambda: len(seen) == 4, "all are handled")
        assert [each for each in seen if each[1] == 1] == [("old", 1, 1), ("new", 1, "c")]
        assert [each for each in seen if each[1] == 2] == [("new", 2, "a"), ("new", 2, "b")]
        assert server.backlog(group.spec) == 0
        assert old.state().lost == new.state().lost == 0
        assert server.letters == {}


async def test_an_ordered_subscription_that_runs_alone_keeps_its_turn(soon: None) -> None:
    """Where nobody stands by the other keys go on, and the subscription is not opened anew."""
    server = Server()
    seen: list[int] = []

    async def handle(event: Old) -> None:
        seen.append(event.number)

    async with running_remote_bus(server) as bus, running_remote_bus(server) as publishing:
        await bus.subscribe(OLD, handle, name="audit", ordered=True).ready()
        await publishing.publish(RETYPED, placed("a", key=1, cls=Retyped))  # type: ignore[arg-type]
        await publishing.publish(RETYPED, placed("b", key=1, cls=Retyped))  # type: ignore[arg-type]
        (group,) = server.groups.values()
        await until(lambda: group.owned and server.consumers[0].asked, "it has asked who stands by")
        for number in range(5):
            await bus.publish(OLD, placed(number, key=2))
        await until(lambda: len(seen) == 5 and len(group.owned) <= 2, "the others are handled and settled")
        assert len(server.consumers) == 1
        assert len(group.owned) == 2


async def test_it_is_closed_while_it_leaves_its_turn(soon: None) -> None:
    """A bus that closes while a handler keeps it from standing aside gives everything back, and ends."""
    server = Server()
    begun = asyncio.Event()

    async def hangs(_event: Old) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with (
        running_remote_bus(server) as other,
        running_remote_bus(server) as publishing,
        running_remote_bus(server) as old,
    ):
        await old.subscribe(OLD, hangs, name="audit", ordered=True).ready()
        await other.subscribe(OLD, hangs, name="audit", ordered=True).ready()
        await other.publish(OLD, placed(1, key=1))
        await begun.wait()
        await publishing.publish(RETYPED, placed("a", key=2, cls=Retyped))  # type: ignore[arg-type]
        (group,) = server.groups.values()
        await until(lambda: server.consumers[0].stopped, "it wants to stand aside")
        assert (await old.close(0.1)).abandoned == ()
        assert server.consumers[0].closed
        assert server.backlog(group.spec) == 2


async def test_it_waits_for_nobody_where_no_other_instance_can_get_it() -> None:
    """A broadcast event is this instance's alone: waiting would hold up its close, and end in no letter."""
    server = Server()
    async with running_remote_bus(server) as bus, running_remote_bus(server) as publishing:
        await bus.subscribe(OLD, ignore, name="audit", mode="broadcast").ready()
        await publishing.publish(RETYPED, Retyped(aggregate_id=uuid4(), number="x"))
        await until(lambda: server.letters, "it is dead")
        (letter,) = await bus.dead_letters.list()
        assert letter.reason == (
            "cannot be decoded: version 3 is not known here, and no other instance gets it"
        )
        assert (await bus.close(5)).completed
