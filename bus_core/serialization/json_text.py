"""Strict, bounded JSON text: for documents of strangers, and by the same rules for our own.

Python's own reader accepts NaN, turns ``1e999`` into infinity, keeps the last of several equal keys, accepts
lone surrogates, and fails on deep nesting with a RecursionError. None of that leaves this module.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from bus_core.serialization.options import JsonOptions

__all__ = ["DuplicateKey", "JsonReader", "JsonTextError", "JsonWriter", "nesting_exceeds"]


class JsonTextError(ValueError):
    """A JSON text is not acceptable; the reason never quotes it."""


class DuplicateKey(JsonTextError):
    """An object has a duplicate key. The key may be personal, so the sentence leaves it out."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__("an object has the same key twice")


# Always takes a whole string, also an unfinished one, so that the scan stays linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = re.compile(rb"[^\[\]{}]+")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_OPENING = frozenset(b"[{")


def nesting_exceeds(body: bytes, max_depth: int) -> bool:
    """True when objects and arrays of a JSON text nest deeper than ``max_depth``."""
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    depth = 0
    for character in _NOT_BRACKETS.sub(b"", _STRING.sub(b"", body)):
        if character in _OPENING:
            depth += 1
            if depth > max_depth:
                return True
        else:
            depth -= 1
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(key)
            seen.add(key)
    return made


def _too_long(body: bytes, limits: JsonOptions) -> str:
    return f"the document has {len(body)} bytes, at most {limits.max_bytes} are accepted (max_bytes)"


def _no_constant(name: str) -> NoReturn:
    raise JsonTextError(f"{name} is not JSON")


class JsonReader:
    """Reads one JSON object out of bytes."""

    def __init__(self, limits: JsonOptions) -> None:
        self._limits = limits
        max_digits = limits.max_digits

        def read_int(text: str) -> int:
            if len(text) > max_digits:
                raise JsonTextError(f"a number has more than {max_digits} digits")
            return int(text)

        def read_float(text: str) -> float:
            if len(text) > max_digits:
                raise JsonTextError(f"a number has more than {max_digits} digits")
            number = float(text)
            if math.isinf(number):
                raise JsonTextError("a number is too large for a float")
            return number

        def decoder(parse_int: Callable[[str], int]) -> json.JSONDecoder:
            return json.JSONDecoder(
                object_pairs_hook=_unique,
                parse_int=parse_int,
                parse_float=read_float,
                parse_constant=_no_constant,
            )

        self._decode = decoder(read_int).decode
        # A document that is shorter than the longest number has no number that is too long.
        self._decode_short = decoder(int).raw_decode

    def read(self, body: bytes) -> dict[str, Any]:
        """The object; raises ``JsonTextError`` and nothing else, whatever the bytes are."""
        if not isinstance(body, bytes):
            raise JsonTextError(f"the document must be bytes, got {type(body).__name__}")
        if len(body) > self._limits.max_bytes:
            raise JsonTextError(_too_long(body, self._limits))
        if nesting_exceeds(body, self._limits.max_depth):
            raise JsonTextError(f"the document nests deeper than {self._limits.max_depth} levels (max_depth)")
        try:
            text = body.decode()
            document = self._scan(text)
            if "\\" in text and _SURROGATE_ESCAPE.search(body):
                json.dumps(document, ensure_ascii=False).encode()  # only to check that it can be encoded
        except JsonTextError:
            raise
        except UnicodeDecodeError as error:
            raise JsonTextError(f"the document is not UTF-8 (byte {error.start})") from None
        except UnicodeEncodeError:
            raise JsonTextError("a text has a lone surrogate, which is no character") from None
        except json.JSONDecodeError as error:
            raise JsonTextError(f"the document is not JSON: {error.msg} (character {error.pos})") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise JsonTextError(f"the document cannot be read ({type(error).__name__})") from None
        if type(document) is not dict:
            raise JsonTextError("the document must be a JSON object")
        return document

    def _scan(self, text: str) -> Any:
        if len(text) <= self._limits.max_digits:
            try:
                document, end = self._decode_short(text)
            except json.JSONDecodeError:
                pass  # there may be spaces before it
            else:
                if end == len(text):
                    return document
        return self._decode(text)


def _text_writer() -> Callable[[Any], str]:
    """Encodes compactly and strictly. ``JSONEncoder.encode`` makes its C encoder again for each value."""
    encoder = json.JSONEncoder(
        ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
    )
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without it
        return encoder.encode
    chunks = make(None, encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(chunks(value, 0))


class JsonWriter:
    """Writes JSON that a ``JsonReader`` of the same limits reads."""

    def __init__(self, limits: JsonOptions) -> None:
        self._limits = limits
        self.text = _text_writer()

    def bounded(self, text: str, *, depth: float = math.inf) -> bytes:
        """The bytes of a document. Raises ``JsonTextError`` when no reader would accept it.

        ``depth`` is the known bound of a document that cannot nest deeper.
        """
        try:
            body = text.encode()
        except UnicodeEncodeError:
            raise JsonTextError("a text has a lone surrogate, which is no character") from None
        if len(body) > self._limits.max_bytes:
            raise JsonTextError(_too_long(body, self._limits))
        max_depth = self._limits.max_depth
        if depth > max_depth and nesting_exceeds(body, max_depth):
            raise JsonTextError(f"the document nests deeper than {max_depth} levels (max_depth)")
        return body
