"""Objects of any writer's schema as plain data. The schema is untrusted, like the bytes.

fastavro gets a copy of the schema that has only what was checked: no logical types, defaults or aliases.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final

import attrs
from fastavro import parse_schema, schemaless_reader

from bus_core.serialization import JsonOptions, JsonReader, JsonTextError
from promenade_bus_avro.json_text import JsonText
from promenade_bus_avro.options import AvroOptions
from promenade_bus_avro.schemas import IS_TUPLE, JSON_TEXT, KEY, NAME

__all__ = ["Unreadable", "WriterSchema"]

Take = Callable[[Any], Any]
"""Turns a value that fastavro read into that of ``to_data``."""

_PRIMITIVES: Final[Mapping[str, type[Any]]] = {
    "null": type(None),
    "boolean": bool,
    "int": int,
    "long": int,
    "float": float,
    "double": float,
    "string": str,
    "bytes": bytes,
}
_JSON_LEVELS: Final = 5
"""A type inside of another one is at most so many levels of JSON further in."""


class Unreadable(ValueError):
    """A schema or an object that cannot be read. The text is the reason, and quotes no value."""


@attrs.frozen
class _Type:
    """A checked type.

    ``schema`` is for fastavro, which reads values of the Python type ``python``. ``depth`` is its nesting.
    Values of an ``empty`` type take no byte.
    """

    schema: Any
    python: type[Any] | None
    take: Take | None = None
    depth: int = 1
    empty: bool = False


class WriterSchema:
    """The schema of a container; reads and writes objects. Threads may share it.

    Raises ``Unreadable`` for a schema that cannot be trusted, or is not one. It allows no type inside itself,
    at most ``max_depth`` levels, and only values that take at least one byte. So the memory for an object is
    bounded by its bytes.
    """

    def __init__(self, text: bytes, options: AvroOptions) -> None:
        found = _Checks(options).top(text)
        try:
            self.parsed: Any = parse_schema(found.schema)
        except Exception as error:
            raise Unreadable(f"its schema is not valid ({type(error).__name__})") from None
        self._take = found.take

    def read(self, written: bytes) -> Any:
        """Returns the object as plain data; raises ``Unreadable``."""
        source = BytesIO(written)
        try:
            value: Any = schemaless_reader(source, self.parsed, None)
        except Exception as error:  # fastavro raises many kinds of errors for such bytes
            raise Unreadable(f"it does not fit its schema ({type(error).__name__})") from None
        if source.tell() != len(written):
            raise Unreadable("it has more bytes than its schema describes")
        return value if self._take is None else self._take(value)


class _Checks:
    def __init__(self, options: AvroOptions) -> None:
        self._options = options
        self._text = JsonText(options)
        self._named: dict[str, _Type | None] = {}

    def top(self, text: bytes) -> _Type:
        limits = JsonOptions(
            max_bytes=self._options.max_bytes, max_depth=_JSON_LEVELS * self._options.max_depth
        )
        try:
            schema = JsonReader(limits).read(text)
        except JsonTextError as error:
            raise Unreadable(f"its schema cannot be read: {error}") from None
        found = self._type(schema, 1)
        if found.python is not dict:
            raise Unreadable("its schema must be a record")
        return found

    def _type(self, node: Any, level: int) -> _Type:
        if level > self._options.max_depth:
            raise Unreadable(f"its schema has more than {self._options.max_depth} levels (max_depth)")
        if isinstance(node, list):
            return self._union(node, level)
        if isinstance(node, str):
            return self._simple(node, level)
        kind = node.get("type") if isinstance(node, dict) else None
        if kind == "string" and node.get("logicalType") == JSON_TEXT:
            return _Type("string", str, self._json_value)
        if kind == "array" or kind == "map":
            return self._items(node, kind, level)
        if kind == "record":
            return self._record(node, level)
        if kind == "enum":
            return self._enum(node)
        if isinstance(kind, str) and kind in _PRIMITIVES:
            return self._simple(kind, level)
        raise Unreadable("its schema has a type that the bus does not support")

    def _simple(self, name: str, level: int) -> _Type:
        if name in _PRIMITIVES:
            take = _as_base64 if name == "bytes" else None
            return _Type(name, _PRIMITIVES[name], take, empty=name == "null")
        known = self._named.get(name)
        if known is None:
            raise Unreadable("its schema names a type that is not defined before, or is inside itself")
        if level + known.depth - 1 > self._options.max_depth:
            raise Unreadable(f"its schema has more than {self._options.max_depth} levels (max_depth)")
        return attrs.evolve(known, schema=name)

    def _union(self, nodes: list[Any], level: int) -> _Type:
        branches = [self._type(node, level + 1) for node in nodes if not isinstance(node, list)]
        takes = {branch.python: branch.take for branch in branches if branch.take is not None}
        plain = {branch.python for branch in branches if branch.take is None}
        if len(branches) < max(1, len(nodes)) or len(takes) + len(plain) != len({*takes, *plain}):
            raise Unreadable("its schema has a union that the bus does not support")
        if len(takes) < sum(branch.take is not None for branch in branches):
            raise Unreadable("its schema has a union whose branches cannot be told apart")

        def take(value: Any) -> Any:
            inner = takes.get(type(value))
            return value if inner is None else inner(value)

        schema = [branch.schema for branch in branches]
        return _Type(schema, None, take if takes else None, 1 + max(branch.depth for branch in branches))

    def _items(self, node: Mapping[str, Any], kind: str, level: int) -> _Type:
        part = "items" if kind == "array" else "values"
        item = self._sized(node.get(part), level)
        give = item.take
        schema = {"type": kind, part: item.schema}
        if kind == "array":
            each = None if give is None else lambda value: [give(inner) for inner in value]
            return _Type(schema, list, each, 1 + item.depth)
        of_map = None if give is None else lambda value: {key: give(inner) for key, inner in value.items()}
        return _Type(schema, dict, of_map, 1 + item.depth)

    def _sized(self, node: Any, level: int) -> _Type:
        found = self._type(node, level + 1)
        if found.empty:
            raise Unreadable("its schema has a value that takes no byte")
        return found

    def _record(self, node: Mapping[str, Any], level: int) -> _Type:
        name, fields = self._define(node), node.get("fields")
        if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
            raise Unreadable("its schema has a record without fields")
        parts = [(*_names_of(field), self._sized(field.get("type"), level)) for field in fields]
        if len({key for _, key, _ in parts}) < len(parts):
            raise Unreadable("its schema has a record with two fields of one key")
        schema = {
            "type": "record",
            "name": name,
            "fields": [{"name": place, "type": part.schema} for place, _, part in parts],
        }
        depth = 1 + max((part.depth for _, _, part in parts), default=0)
        if node.get(IS_TUPLE) is True:
            found = _Type(schema, dict, _tuple_taker(parts), depth, not parts)
        else:
            found = _Type(schema, dict, _record_taker(parts), depth, not parts)
        self._named[name] = found
        return found

    def _enum(self, node: Mapping[str, Any]) -> _Type:
        name, symbols = self._define(node), node.get("symbols")
        if not isinstance(symbols, list) or not all(map(_is_name, symbols)):
            raise Unreadable("its schema has an enum without symbols")
        self._named[name] = _Type({"type": "enum", "name": name, "symbols": symbols}, str)
        return self._named[name]  # type: ignore[return-value]

    def _define(self, node: Mapping[str, Any]) -> str:
        name = node.get("name")
        if not _is_name(name) or name in self._named or name in _PRIMITIVES:
            raise Unreadable("its schema has a type without a name of its own")
        assert isinstance(name, str)
        self._named[name] = None  # until it is complete
        return name

    def _json_value(self, text: str) -> Any:
        try:
            return self._text.read(text)
        except JsonTextError as error:
            raise Unreadable(f"it has JSON text that cannot be read: {error}") from None


_Parts = list[tuple[str, str, _Type]]


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def _names_of(field: Mapping[str, Any]) -> tuple[str, str]:
    name = field.get("name")
    key = field.get(KEY, name)
    if not _is_name(name) or not isinstance(key, str):
        raise Unreadable("its schema has a field without a name")
    assert isinstance(name, str)
    return name, key


def _tuple_taker(parts: _Parts) -> Take:
    takes = [(name, part.take) for name, _, part in parts]
    return lambda value: [value[name] if take is None else take(value[name]) for name, take in takes]


def _record_taker(parts: _Parts) -> Take | None:
    if all(name == key and part.take is None for name, key, part in parts):
        return None
    takes = [(name, key, part.take) for name, key, part in parts]
    return lambda value: {
        key: value[name] if take is None else take(value[name]) for name, key, take in takes
    }


def _as_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
