"""Two versions of the code at once: what one of them cannot decode waits for an instance that can."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from bus_core import DeserializationError, Event, Topic, event
from bus_core.serialization import JsonOptions, JsonSerializer
from support.buses import until
from support.handlers import ignore
from support.remote import Server, running_remote_bus


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
    """After unknown_version_wait it is a dead letter that says for which version nobody came."""
    server = Server()
    async with running_remote_bus(server, unknown_version_wait="1m") as bus:
        await bus.subscribe(OLD, ignore, name="audit").ready()
        async with running_remote_bus(server) as publishing:
            await publishing.publish(RETYPED, Retyped(aggregate_id=uuid4(), number="x"))
        (group,) = server.groups.values()
        await until(lambda: group.parked, "it was given back")
        assert await bus.dead_letters.list() == []
        ((_, entry),) = group.parked
        entry.stored_at -= timedelta(minutes=1)
        server.due()
        await until(lambda: server.letters, "it is dead")
        (letter,) = await bus.dead_letters.list()
    assert letter.reason == "cannot be decoded: no instance that knows version 3 came within 60 s"
    assert [attempt.number for attempt in letter.attempts] == [1]


async def test_a_letter_that_is_redriven_waits_again() -> None:
    """How long it waits for an instance that can decode it counts from its redrive, not from its publish."""
    server = Server()
    async with running_remote_bus(server, unknown_version_wait="1m") as bus:
        await bus.subscribe(OLD, ignore, name="audit").ready()
        (group,) = server.groups.values()
        async with running_remote_bus(server) as publishing:
            await publishing.publish(RETYPED, Retyped(aggregate_id=uuid4(), number="x"))
        await until(lambda: group.parked, "it was given back")
        ((_, entry),) = group.parked
        entry.stored_at -= timedelta(minutes=1)
        server.due()
        await until(lambda: server.letters, "it is dead")
        assert await bus.dead_letters.redrive([*server.letters]) == 1
        await until(lambda: group.parked or server.letters, "it was given back, or up")
        assert [(delay, entry.attempt) for delay, entry in group.parked] == [(0.5, 1)]
        assert entry.redriven_at is not None
        entry.redriven_at -= timedelta(minutes=1)
        server.due()
        await until(lambda: server.letters, "it is dead again")


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
