"""Events of topics as messages, and back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from bus_core import BaseEvent, Event, Personal, Topic, TopicCatalogue, event
from bus_core.dispatch.codec import Codec, key_of
from bus_core.errors import DeserializationError, SerializationError
from bus_core.events.messages import Message
from bus_core.events.topics import TopicRegistry
from bus_core.serialization.cloudevents import JsonSerializer


@event
class DealWon(Event):
    customer: Personal[str]


DEAL_WON = Topic("customer.deal.won", DealWon)
DEAL = UUID(int=5)


@pytest.fixture
def codec() -> Codec:
    registry = TopicRegistry()
    registry.add_catalogue(TopicCatalogue("customer", [DEAL_WON]), "tests")
    return Codec(JsonSerializer(), registry, "crm")


def test_an_event_becomes_a_message(codec: Codec) -> None:
    """The message has the event's id, the topic's name, the aggregate as key, and a copy of the headers."""
    made = DealWon(aggregate_id=DEAL, customer="Ada")
    headers = {"trace": "1"}
    message = codec.encode(DEAL_WON, made, headers)
    headers["trace"] = "2"
    assert (message.id, message.topic, message.key) == (str(made.event_id), "customer.deal.won", str(DEAL))
    assert message.headers == {"trace": "1"}
    assert b'"source":"crm"' in message.body


def test_a_message_becomes_an_event_of_the_topics_class(codec: Codec) -> None:
    """An encoded event comes back equal, of the class that the registry knows for the topic."""
    made = DealWon(aggregate_id=DEAL, customer="Ada")
    assert codec.decode(codec.encode(DEAL_WON, made, {})) == made


@pytest.mark.parametrize("name", ["customer.deal.lost", "not a topic name", "", "a.*"])
def test_a_message_of_an_unknown_topic_becomes_a_base_event(codec: Codec, name: str) -> None:
    """A subscriber to a pattern gets events of topics that it does not know, untyped."""
    made = DealWon(aggregate_id=DEAL, customer="Ada")
    sent = codec.encode(DEAL_WON, made, {})
    read = codec.decode(Message(sent.id, name, sent.key, sent.body))
    assert isinstance(read, BaseEvent)
    assert (read.type, read.data) == ("deal.won", {"customer": "Ada"})


def test_nobody_looks_for_a_name_that_is_near_to_an_unknown_one(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes as long as decoding twenty events, and its result would be in no message."""

    def looked_for(*_: object) -> list[str]:
        raise AssertionError

    monkeypatch.setattr("bus_core.events.topics.nearest_names", looked_for)
    made = DealWon(aggregate_id=DEAL, customer="Ada")
    sent = codec.encode(DEAL_WON, made, {})
    assert isinstance(codec.decode(Message(sent.id, "customer.deal.wonn", sent.key, sent.body)), BaseEvent)
    assert codec.encode_named("customer.deal.wonn", made).key == str(DEAL)


def test_a_message_that_is_no_event_is_a_decoding_error(codec: Codec) -> None:
    """Bytes of any kind give the one error that dead-letters a message."""
    with pytest.raises(DeserializationError, match="not a valid DealWon: the document is not JSON"):
        codec.decode(Message("1", "customer.deal.won", "k", b"?"))


@pytest.mark.parametrize("body", ["text", bytearray(b"x"), memoryview(b"x"), None, {}])
def test_a_serializer_that_makes_no_bytes_is_named(body: Any) -> None:
    """Anything but bytes from a serializer is refused here, before it shares a batch with other events."""

    class Odd(JsonSerializer):
        def encode(self, event: Event, *, topic: str, source: str) -> Any:
            return body

    odd = Codec(Odd(), TopicRegistry(), "crm")
    made = DealWon(aggregate_id=DEAL, customer="Ada")
    with pytest.raises(SerializationError, match=f"made a {type(body).__name__} instead of bytes") as caught:
        odd.encode(DEAL_WON, made, {})
    assert "Ada" not in str(caught.value)


def test_a_topic_chooses_its_key(codec: Codec) -> None:
    """A topic's key function replaces the aggregate as the ordering key."""
    topic = Topic("customer.deal.won", DealWon, key=lambda made: made.customer)
    made = DealWon(aggregate_id=DEAL, customer="Ada")
    assert key_of(topic, made) == "Ada"
    assert codec.encode(topic, made, {}).key == "Ada"


def _broken(made: DealWon) -> str:
    raise KeyError(made.customer)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (
            _broken,
            "the key function of topic 'customer.deal.won' raised KeyError for an event of class DealWon",
        ),
        (lambda _: None, "the key function of topic 'customer.deal.won' must return a str, got NoneType"),
        (lambda _: 7, "the key function of topic 'customer.deal.won' must return a str, got int"),
        (
            lambda _: "\ud800",
            "the key function of topic 'customer.deal.won' returned text that cannot be encoded: it holds a "
            "lone surrogate, which is no character",
        ),
    ],
)
def test_a_key_function_that_gives_no_key_is_named(codec: Codec, key: Any, reason: str) -> None:
    """A key function that raises, or gives something else, is an encoding error that shows no values."""
    topic = Topic("customer.deal.won", DealWon, key=key)
    with pytest.raises(SerializationError) as caught:
        codec.encode(topic, DealWon(aggregate_id=DEAL, customer="Ada"), {})
    assert str(caught.value) == reason
