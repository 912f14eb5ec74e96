"""Where one request or reply of the Redis protocol ends and the next begins; RESP2 and RESP3."""

from __future__ import annotations

from typing import Final

_LINES: Final = b"+-:_#,("
_BULKS: Final = b"$=!"
_AGGREGATES: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}
_ATTRIBUTE: Final = ord("|")


class Framer:
    """Cuts a stream of bytes into whole values, whatever the chunks it arrives in.

    A stream that begins with anything else than a value, such as a TLS handshake, is passed on as it comes.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0
        self._missing = 1  # values until the frame is whole
        self.is_opaque = False

    def feed(self, data: bytes) -> list[bytes]:
        """The values that are whole now, each as its bytes."""
        self._buffer += data
        frames: list[bytes] = []
        while not self.is_opaque and self._steps():
            if self._missing == 0:
                frames.append(bytes(self._buffer[: self._position]))
                del self._buffer[: self._position]
                self._position, self._missing = 0, 1
        if self.is_opaque and self._buffer:
            frames.append(bytes(self._buffer))
            self._buffer.clear()
        return frames

    def _steps(self) -> bool:
        try:
            return self._step()
        except ValueError:  # a length that is no number: not the protocol
            self.is_opaque = True
            return False

    def _step(self) -> bool:
        """Passes over one value, or the head of an aggregate; False when more bytes are needed."""
        end = self._buffer.find(b"\r\n", self._position)
        kind = self._buffer[self._position] if self._position < len(self._buffer) else None
        if kind is not None and not (kind in _LINES or kind in _BULKS or kind in _AGGREGATES):
            self.is_opaque = True
            return False
        if kind is None or end < 0:
            return False
        after = end + 2
        if kind in _BULKS:
            length = int(self._buffer[self._position + 1 : end])
            after += length + 2 if length >= 0 else 0
            if after > len(self._buffer):
                return False
        elif kind in _AGGREGATES:
            count = int(self._buffer[self._position + 1 : end])
            self._missing += max(count, 0) * _AGGREGATES[kind]
            if kind == _ATTRIBUTE:  # it precedes the value that it belongs to
                self._missing += 1
        self._missing -= 1
        self._position = after
        return True


def command_name(request: bytes) -> str:
    """The name of the command that a request holds, in capitals; empty when it is none.

    That of EVALSHA is followed by the digest of its script.
    """
    head, _, rest = request.partition(b"\r\n")
    if not head.startswith(b"*") or not rest.startswith(b"$"):
        return ""
    name, rest = _bulk(rest)
    return f"{name} {_bulk(rest)[0]}" if name == "EVALSHA" else name


def _bulk(text: bytes) -> tuple[str, bytes]:
    length, _, body = text.partition(b"\r\n")
    end = int(length[1:])
    return body[:end].decode("latin-1").upper(), body[end + 2 :]


def is_push(reply: bytes) -> bool:
    """True when a frame comes unasked (RESP3), and so answers no request."""
    return reply.startswith(b">")
