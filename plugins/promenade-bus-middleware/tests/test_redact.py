from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest

import promenade_bus_middleware
from bus_core import (
    BaseEvent,
    Constraint,
    Delivery,
    Envelope,
    Event,
    PermanentError,
    Personal,
    PublishFailed,
    WatchedMiddleware,
    event,
)
from promenade_bus_testing import VirtualClock, isolated_bus
from support.middleware import build, delivered, faults_of, succeed

Country = Annotated[str, Constraint.matching("two capital letters", "[A-Z]{2}")]


@event
class CardPaid(Event):
    card_number: str
    email: Personal[str]
    phone: Personal[str | None] = None
    notes: Personal[tuple[str, ...]] = ()
    country: Country = "CH"
    amount: int = 0


PAID = CardPaid(
    aggregate_id=UUID(int=1),
    metadata={"Api-Token": "t0k3n", "tenant": "acme"},
    card_number="4111",
    email="ada@example.org",
    phone="079",
    notes=("calls often",),
    amount=5,
)


async def redacted(clock: VirtualClock, envelope: Envelope, **options: Any) -> Any:
    await build("redact", clock, **options)(succeed)(envelope)
    return envelope.event


async def test_fields_metadata_and_headers_by_name(virtual_clock: VirtualClock) -> None:
    """Names are selected by patterns, in any case, and nothing else changes; the event is a copy."""
    envelope = Envelope("sales.card.paid", PAID, {"cookie": "c", "x-token": "t", "traceparent": "00"})
    found = await redacted(
        virtual_clock, envelope, fields=["card_*"], metadata=["*token"], headers=["cookie", "*token*"]
    )
    assert (found.card_number, found.email, found.amount) == ("<redacted>", "ada@example.org", 5)
    assert found.metadata == {"Api-Token": "<redacted>", "tenant": "acme"}
    assert envelope.headers == {"cookie": "<redacted>", "x-token": "<redacted>", "traceparent": "00"}
    assert (found.event_id, found.occurred_at) == (PAID.event_id, PAID.occurred_at)
    assert PAID.card_number == "4111"


async def test_personal_fields(virtual_clock: VirtualClock) -> None:
    """Personal fields get the mask, or None or an empty value where their type has no place for it."""
    found = await redacted(virtual_clock, Envelope("t.a.b", PAID, {}), personal=True, mask="-")
    assert (found.email, found.phone, found.notes) == ("-", "-", ())
    assert found.card_number == "4111"


@pytest.mark.parametrize("field", ["country", "amount"])
async def test_a_field_that_cannot_be_masked(virtual_clock: VirtualClock, field: str) -> None:
    """A field whose type takes no mask is refused, in both chains, and the error does not show its value."""
    with pytest.raises(PublishFailed, match=f"a field of CardPaid cannot be masked \\({field} ") as refused:
        await redacted(virtual_clock, Envelope("sales.card.paid", PAID, {}), fields=[field])
    assert "CH" not in str(refused.value)
    envelope = delivered(virtual_clock)
    envelope.event = PAID
    with pytest.raises(PermanentError, match="cannot be masked"):
        await redacted(virtual_clock, envelope, fields=[field])


async def test_events_without_a_class(virtual_clock: VirtualClock) -> None:
    """Of a BaseEvent the data is masked by its keys; any of it may be personal."""
    untyped = BaseEvent("card.paid", UUID(int=1), data={"card": "4111", "amount": 5})
    for options, expected in (
        ({"fields": ["card"]}, {"card": "<redacted>", "amount": 5}),
        ({"personal": True}, {"card": "<redacted>", "amount": "<redacted>"}),
        ({"fields": ["other"]}, {"card": "4111", "amount": 5}),
    ):
        envelope: Any = Envelope("sales.card.paid", PAID, {})
        envelope.event = untyped
        found = await redacted(virtual_clock, envelope, **options)
        assert dict(found.data) == expected
        assert (found.type, found.event_id) == ("card.paid", untyped.event_id)


async def test_neither_adapter_nor_consumer_gets_the_values() -> None:
    """A masked publish leaves no value in the bytes of the message, nor in headers; other topics are kept."""
    seen: list[tuple[bytes, dict[str, str]]] = []
    options = {"fields": ["card"], "metadata": ["token"], "headers": ["cookie"], "topics": ["sales.#"]}
    async with isolated_bus(
        plugins=[promenade_bus_middleware],
        strict_topics=False,
        middleware={"publish": [{"redact": options}]},
    ) as bus:

        @bus.subscribe("#", name="all")
        async def all_of_them(event: BaseEvent, delivery: Delivery) -> None:
            assert delivery.body is not None
            seen.append((delivery.body, dict(delivery.headers)))

        for topic in ("sales.card.paid", "crm.card.paid"):
            event = BaseEvent("card.paid", uuid4(), data={"card": "s3cret"}, metadata={"token": "s3cret"})
            await bus.publish(topic, event, headers={"cookie": "s3cret"})
        await bus.drain()
    (masked, masked_headers), (plain, _) = seen
    assert b"s3cret" not in masked
    assert masked_headers == {"cookie": "<redacted>"}
    assert b"s3cret" in plain


def test_topics_that_are_not_chosen(virtual_clock: VirtualClock) -> None:
    """Topics that are not chosen do not pass through the middleware at all."""
    redact = build("redact", virtual_clock, topics=["sales.#"])
    assert isinstance(redact, WatchedMiddleware)
    assert redact.of_topic("crm.a.b") is None
    assert redact.of_topic("sales.a.b") is redact
    assert "a..b" in faults_of("redact", topics=["a..b"])[0]
