from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from bus_core import Attempt, DeadLetter, Message
from promenade_bus_redis.streams.wire import (
    EntryState,
    letter_fields,
    message_fields,
    read_entry,
    read_letter,
    returning_fields,
)

ENTRY = b"1700000000123-4"


def as_bytes(fields: list[object]) -> list[bytes]:
    return [value if isinstance(value, bytes) else str(value).encode() for value in fields]


MESSAGES = st.builds(
    Message,
    st.text(min_size=1, max_size=20),
    st.just("a.b.happened"),
    st.text(max_size=20),
    st.binary(max_size=50),
    st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
)
ATTEMPTS = st.builds(
    Attempt,
    st.integers(1, 99),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.text(max_size=50),
    st.text(max_size=50),
    st.text(max_size=50),
)


@given(MESSAGES)
def test_messages_come_back_as_they_were(message: Message) -> None:
    """A written entry is read as the same message, published when the server stored it."""
    content = read_entry(message.topic, ENTRY, as_bytes(message_fields(message)))
    assert (content.message, content.fault, content.state) == (message, None, EntryState())
    assert content.published_at == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)


@given(MESSAGES, st.integers(1, 9), st.integers(0, 9), st.lists(ATTEMPTS, max_size=4), st.integers(0, 10**7))
def test_attempts_come_back_as_they_were(
    message: Message, attempt: int, deaths: int, history: list[Attempt], waited: int
) -> None:
    """A returned message has its attempts, and the time at which it was first published."""
    state = EntryState(attempt, deaths, tuple(history), waited / 1000)
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    content = read_entry(message.topic, ENTRY, as_bytes(returning_fields(message, moment, state)))
    assert (content.message, content.state, content.published_at) == (message, state, moment)
    assert EntryState.decode(state.encode()) == state


@given(
    st.integers(0, 2**64 - 1),
    st.lists(
        st.tuples(
            st.binary(max_size=9)
            | st.sampled_from([b"id", b"key", b"body", b"headers", b"state", b"published"]),
            st.binary(max_size=30),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_any_entry_can_be_read(moment: int, pairs: list[tuple[bytes, bytes]]) -> None:
    """Any entry gives a message that can be encoded, and bytes for the dead letters."""
    content = read_entry("a.b.happened", b"%d-1" % moment, [part for pair in pairs for part in pair])
    assert isinstance(content.published_at, datetime)
    message = content.message
    assert message.id
    f"{message.id}{message.key}{message.headers}{content.fault}".encode()
    assert isinstance(message.body, bytes)


def test_an_entry_by_hand() -> None:
    """A document that was put in with XADD and nothing else gets its id and key from inside."""
    document = {"specversion": "1.0", "id": "event-1", "source": "x", "type": "y", "subject": "customer-7"}
    content = read_entry("a.b.happened", ENTRY, [b"body", json.dumps(document).encode()])
    assert (content.message.id, content.message.key, content.fault) == ("event-1", "customer-7", None)


def test_an_empty_id_is_none() -> None:
    """An entry with an empty id gets one, in whatever order its fields are."""
    for fields in ([b"id", b"", b"key", b"k", b"body", b"x"], [b"body", b"x", b"id", b""]):
        assert read_entry("a.b.happened", ENTRY, fields).message.id == ENTRY.decode()


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b"\xff", b'{"id": 7}', b'{"id": "\\ud800"}'])
def test_a_body_without_an_id(body: bytes) -> None:
    """Where no id can be found the entry's own is taken; what the body is others say."""
    content = read_entry("a.b.happened", ENTRY, [b"body", body])
    assert (content.message.id, content.message.body, content.fault) == (ENTRY.decode(), body, None)


UNREADABLE = "its field 'published' or 'state' cannot be read"


@pytest.mark.parametrize(
    ("fields", "fault", "body"),
    [
        ([b"data", b"x", b"more", b"\xff"], "the entry has no field 'body'", b"data: x\nmore: \xff"),
        ([b"body", b"x", b"id", b"\xff"], "its field 'id' is not UTF-8", b"x"),
        ([b"body", b"x", b"headers", b"[1]"], "its field 'headers' is not a JSON object of texts", b"x"),
        ([b"body", b"x", b"headers", b'{"a": 1}'], "its field 'headers' is not a JSON object of texts", b"x"),
        ([b"body", b"x", b"state", b"1"], UNREADABLE, b"x"),
        ([b"body", b"x", b"state", b"0 0"], UNREADABLE, b"x"),
        ([b"body", b"x", b"state", b"-1 0"], UNREADABLE, b"x"),
        ([b"body", b"x", b"state", b"1 -1"], UNREADABLE, b"x"),
        (
            [b"body", b"x", b"state", b"9" * 30 + b" 0"],
            UNREADABLE,
            b"x",
        ),
        ([b"body", b"x", b"published", b"9" * 99], UNREADABLE, b"x"),
        ([b"body", b"x", b"state", b"1 0 -5"], UNREADABLE, b"x"),
        ([b"body", b"x", b"state", b"1 0 5 5"], UNREADABLE, b"x"),
    ],
)
def test_malformed_entries(fields: list[bytes], fault: str, body: bytes) -> None:
    """An entry that cannot be understood says why, and keeps its raw bytes."""
    content = read_entry("a.b.happened", ENTRY, fields)
    assert (content.fault, content.message.body) == (fault, body)


@pytest.mark.parametrize("field", [b"headers", b"state"])
def test_what_is_too_large_is_not_read(field: bytes) -> None:
    """Foreign fields beside a body are not read when they are so large that others would wait."""
    texts = {
        b"headers": b"{" + b",".join(b'"%x":""' % number for number in range(150_000)) + b"}",
        b"state": b"1 0" + b'\n[1, 1, "no"]' * 150_000,
    }
    content = read_entry("a.b.happened", ENTRY, [b"body", b"x", field, texts[field]])
    assert content.fault is not None
    assert field.decode() in content.fault
    assert (content.message.body, content.message.headers, content.state) == (b"x", {}, EntryState())


def test_headers_that_may_be_published_are_read() -> None:
    """As many headers as the bus accepts come back, however much room their encoding takes."""
    headers = {f"{number:x}": "" for number in range(10_000)} | {"control": "\x00" * 20_000}
    message = Message("1", "a.b.happened", "k", b"x", headers)
    content = read_entry("a.b.happened", ENTRY, as_bytes(message_fields(message)))
    assert (content.fault, content.message.headers) == (None, headers)


@given(MESSAGES, st.lists(ATTEMPTS, max_size=3), st.text(max_size=30))
def test_letters_come_back_as_they_were(message: Message, history: list[Attempt], reason: str) -> None:
    """A dead letter is read as it was written, but for its id, which says where it is."""
    now = datetime.now(UTC)
    letter = DeadLetter(
        "x", message.topic, "listener", None, message.key, reason, tuple(history), message.body,
        message.headers, dead_at=now,
    )  # fmt: skip
    fields = as_bytes(letter_fields(letter, message, now - timedelta(hours=1), "tests.listener"))
    read = read_letter(message.topic, "a.b.happened/1-1", fields)
    assert read.id == "a.b.happened/1-1"
    assert (read.body, read.attempts, read.reason, read.dead_at) == (
        letter.body, letter.attempts, letter.reason, letter.dead_at,
    )  # fmt: skip
    assert (read.topic, read.subscription, read.key, read.headers) == (
        letter.topic, letter.subscription, letter.key, letter.headers,
    )  # fmt: skip


def test_others_can_read_a_body() -> None:
    """The body is a CloudEvents document that the SDK decodes."""
    document = {"specversion": "1.0", "id": "1", "source": "crm", "type": "t", "data": {"a": 1}}
    fields = message_fields(Message("1", "a.b.happened", "k", json.dumps(document).encode()))
    decoded = JSONFormat().read(CloudEvent, fields[fields.index("body") + 1])
    assert decoded.get_data() == {"a": 1}
