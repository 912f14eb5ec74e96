from __future__ import annotations

import random

import pytest

from redis_support.resp import Framer, command_name, is_push

pytestmark = pytest.mark.once

VALUES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":42\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$7\r\na\r\n*3\r\n\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*2\r\n_\r\n#t\r\n",
    b"|1\r\n+ttl\r\n:3\r\n*1\r\n,1.5\r\n",
    b">2\r\n+message\r\n=5\r\ntxt:a\r\n",
]


@pytest.mark.parametrize("seed", range(20))
def test_values_are_found_in_any_chunks(seed: int) -> None:
    """Whole values come out in order and unchanged, however the stream is cut."""
    chance = random.Random(seed)
    values = [chance.choice(VALUES) for _ in range(30)]
    stream = b"".join(values)
    framer = Framer()
    found: list[bytes] = []
    while stream:
        size = chance.randint(1, 7)
        found += framer.feed(stream[:size])
        stream = stream[size:]
    assert found == values


@pytest.mark.parametrize("start", [b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"$x\r\nabc"])
def test_another_protocol_passes(start: bytes) -> None:
    """Bytes that are not the protocol pass as they come."""
    framer = Framer()
    assert b"".join(framer.feed(start) + framer.feed(b"more")) == start + b"more"
    assert framer.is_opaque


def test_names() -> None:
    """The name of a command is known, and so is a reply that nobody asked for."""
    assert command_name(b"*2\r\n$4\r\nxadd\r\n$1\r\na\r\n") == "XADD"
    assert command_name(b"+OK\r\n") == ""
    assert is_push(VALUES[-1])
    assert not is_push(VALUES[0])
