"""Field values to JSON values and back, by the fields' types: strict hooks for a cattrs converter.

A converter of ``make_converter`` knows the types of ``json_values``, enums, literals, unions whose
alternatives differ in JSON, collections, mappings, and attrs classes and dataclasses as nested values.
``converter.register_structure_hook`` and ``register_unstructure_hook`` teach it more.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
import cattrs

from bus_core.events import Event, FrozenMapping, check_for
from bus_core.json_text import Limits
from bus_core.json_values import READERS, Fault, Unfit, unfit, writers

__all__ = ["Record", "UnsupportedType", "make_converter", "record_of"]

Load = Callable[[Any, Any], Any]
Dump = Callable[[Any], Any]


class UnsupportedType(TypeError):
    """A type has no form in JSON that could be read back."""


# --- records: classes with named fields -------------------------------------------------------------------


@attrs.frozen
class Record:
    """The compiled plan of a class with named fields: what reads and what writes each of them.

    ``loads`` holds key, constructor argument, type, hook, and whether it is required; ``dumps`` holds
    attribute, key, and a hook or None where the value is already JSON.
    """

    loads: list[tuple[str, str, Any, Load, bool]] = attrs.field(factory=list)
    dumps: list[tuple[str, str, Dump | None]] = attrs.field(factory=list)

    def load(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments; raises ``Unfit`` with every fault. Unknown keys are passed over."""
        values: dict[str, Any] = {}
        faults: list[Fault] = []
        for key, argument, hint, hook, required in self.loads:
            if key in data:
                try:
                    values[argument] = hook(data[key], hint)
                except Unfit as error:
                    faults += [(f".{key}{path}", words) for path, words in error.faults]
                except Exception:  # a hook that was registered by the application
                    faults.append((f".{key}", f"must be a {_name_of(hint)}"))
            elif required:
                faults.append((f".{key}", "is missing"))
        if faults:
            raise Unfit(faults)
        return values

    def dump(self, record: Any) -> dict[str, Any]:
        """The JSON object of a value; raises ``Unfit`` at the first field that has none."""
        data: dict[str, Any] = {}
        for name, key, hook in self.dumps:
            value = getattr(record, name)
            if hook is not None:
                try:
                    value = hook(value)
                except Unfit as error:
                    raise Unfit([(f".{key}{path}", words) for path, words in error.faults]) from None
                except Exception:
                    raise Unfit([(f".{key}", "has a value that does not fit its type")]) from None
            data[key] = value
        return data


def record_of(
    converter: cattrs.Converter,
    cls: type[Any],
    hints: Mapping[str, Any],
    *,
    leave_out: Iterable[str] = (),
    trusted: bool = False,
    into: Record | None = None,
) -> Record:
    """Compiles the plan of a class; raises ``UnsupportedType``, which names the field.

    ``trusted`` says that the class itself has checked its values against their types.
    """
    record = Record() if into is None else into
    skipped = set(leave_out)
    for name, key, required in _fields_of(cls):
        if name in skipped:
            continue
        hint = hints.get(name, Any)
        try:
            load = converter.get_structure_hook(hint)
            dump: Dump | None = converter.get_unstructure_hook(hint)
        except Exception as error:
            reason = f": {error}" if isinstance(error, UnsupportedType) else ""
            raise UnsupportedType(f"the field {name!r} of type {_name_of(hint)} has no JSON form{reason}") from None
        if _bare(hint) in (str, bool, type(None)):
            dump = None
        if not trusted:
            dump = _checked(dump, hint)
        record.loads.append((key, key, hint, load, required))
        record.dumps.append((name, key, dump))
    return record


def _fields_of(cls: type[Any]) -> list[tuple[str, str, bool]]:
    """Of each field that the constructor takes: attribute, argument, and whether it is required."""
    if attrs.has(cls):
        return [(f.name, f.alias or f.name, f.default is attrs.NOTHING) for f in attrs.fields(cls) if f.init]
    missing = dataclasses.MISSING
    return [
        (f.name, f.name, f.default is missing and f.default_factory is missing)
        for f in dataclasses.fields(cls)
        if f.init
    ]


def _checked(dump: Dump | None, hint: Any) -> Dump | None:
    check = check_for(hint)
    if check is None:
        return dump

    def checked(value: Any) -> Any:
        wanted = check(value)
        if wanted is not None:
            raise unfit(wanted)
        return value if dump is None else dump(value)

    return checked


def _name_of(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _bare(hint: Any) -> Any:
    while True:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        else:
            return hint


# --- the converter ----------------------------------------------------------------------------------------

_COLLECTIONS: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    MutableSequence: list,
    Sequence: tuple,
    set: set,
    MutableSet: set,
    frozenset: frozenset,
    AbstractSet: frozenset,
    deque: deque,
}
_MAPPINGS: dict[Any, Callable[[dict[Any, Any]], Any]] = {
    dict: dict,
    MutableMapping: dict,
    Mapping: FrozenMapping,
    FrozenMapping: FrozenMapping,
}
_SETS = (set, frozenset, MutableSet, AbstractSet)


def make_converter(limits: Limits) -> cattrs.Converter:
    """A converter with strict hooks for everything that this module knows."""
    converter = cattrs.Converter(detailed_validation=False, unstructure_fallback_factory=_no_dump)
    for simple, (_, read) in READERS.items():
        converter.register_structure_hook(simple, _load_simple(simple, read))
    written = writers(limits)
    write_json = written.pop(Any)
    for simple, write in written.items():
        converter.register_unstructure_hook(simple, write)

    def anything(hint: Any) -> bool:
        return hint in (Any, object)

    converter.register_structure_hook_func(anything, lambda value, _: value)
    converter.register_unstructure_hook_func(anything, write_json)
    records: dict[Any, Record] = {}

    def nested(hint: Any, made_by: cattrs.Converter) -> Record:
        if hint not in records:
            records[hint] = record = Record()  # known before it is filled, for classes that contain themselves
            try:
                record_of(made_by, hint, get_type_hints(hint, include_extras=True), into=record)
            except BaseException:
                del records[hint]
                raise
        return records[hint]

    def load_record(hint: Any, made_by: cattrs.Converter) -> Load:
        record = nested(hint, made_by)

        def load(value: Any, _hint: Any) -> Any:
            if type(value) is not dict:
                raise unfit("an object")
            arguments = record.load(value)
            try:
                return hint(**arguments)
            except Exception:
                raise unfit(f"a valid {hint.__name__}") from None

        return load

    def dump_record(hint: Any, made_by: cattrs.Converter) -> Dump:
        return nested(hint, made_by).dump

    for predicate, load_factory, dump_factory in (
        (_is_record, load_record, dump_record),
        (_is_mapping, _load_mapping, _dump_mapping),
        (_is_collection, _load_collection, _dump_collection),
        (_is_fixed_tuple, _load_fixed_tuple, _dump_fixed_tuple),
        (_is_literal, _load_literal, _dump_literal),
        (_is_enum, _load_enum, _dump_enum),
        (_is_union, _load_union, _dump_union),
    ):
        converter.register_structure_hook_factory(predicate, load_factory)
        converter.register_unstructure_hook_factory(predicate, dump_factory)
    return converter


def _no_dump(hint: Any) -> Dump:
    raise UnsupportedType(f"{_name_of(hint)} is not a type that JSON or the serializer knows")


def _load_simple(simple: Any, read: Callable[[Any], Any]) -> Load:
    def load(value: Any, hint: Any) -> Any:
        if hint is simple:
            return read(value)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):  # class Colour(str, Enum)
            return _member(hint, value)
        return hint(read(value))  # class Email(str)

    return load


def _is_record(hint: Any) -> bool:
    known = isinstance(hint, type) and (attrs.has(hint) or dataclasses.is_dataclass(hint))
    return known and not issubclass(hint, Event)


# Collections.


def _is_collection(hint: Any) -> bool:
    arguments = get_args(hint)
    return get_origin(hint) in _COLLECTIONS or (
        get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis
    )


def _load_collection(hint: Any, converter: cattrs.Converter) -> Load:
    build = _COLLECTIONS.get(get_origin(hint), tuple)
    item_hint = get_args(hint)[0]
    hook = converter.get_structure_hook(item_hint)

    def load(value: Any, _hint: Any) -> Any:
        if type(value) is not list:
            raise unfit("an array")
        items: list[Any] = []
        try:
            for item in value:
                items.append(hook(item, item_hint))
        except Unfit as error:
            raise Unfit([(f"[{len(items)}]{path}", words) for path, words in error.faults]) from None
        return build(items)

    return load


def _dump_collection(hint: Any, converter: cattrs.Converter) -> Dump:
    item_hint = get_args(hint)[0]
    hook = converter.get_unstructure_hook(item_hint)
    unordered = get_origin(hint) in _SETS

    def dump(value: Any) -> list[Any]:
        items = [hook(item) for item in value]
        if unordered:
            try:
                items.sort()
            except TypeError:  # values of several types have no order
                pass
        return items

    return dump


def _is_fixed_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple and Ellipsis not in get_args(hint)


def _load_fixed_tuple(hint: Any, converter: cattrs.Converter) -> Load:
    hooks = [(converter.get_structure_hook(item), item) for item in get_args(hint)]

    def load(value: Any, _hint: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(hooks):
            raise unfit(f"an array of {len(hooks)}")
        items: list[Any] = []
        try:
            for (hook, item_hint), item in zip(hooks, value, strict=True):
                items.append(hook(item, item_hint))
        except Unfit as error:
            raise Unfit([(f"[{len(items)}]{path}", words) for path, words in error.faults]) from None
        return tuple(items)

    return load


def _dump_fixed_tuple(hint: Any, converter: cattrs.Converter) -> Dump:
    hooks = [converter.get_unstructure_hook(item) for item in get_args(hint)]
    return lambda value: [hook(item) for hook, item in zip(hooks, value, strict=True)]


# Mappings. A key may be personal: no fault quotes one.


def _is_mapping(hint: Any) -> bool:
    return get_origin(hint) in _MAPPINGS


def _key_kind(hint: Any) -> str:
    kinds = json_kinds(get_args(hint)[0])
    if kinds == {"text"}:
        return "text"
    if _bare(get_args(hint)[0]) is int:
        return "int"
    raise UnsupportedType("the keys of a mapping must be int, or a type that is text in JSON")


def _load_mapping(hint: Any, converter: cattrs.Converter) -> Load:
    build = _MAPPINGS[get_origin(hint)]
    key_hint, item_hint = get_args(hint)
    int_keys = _key_kind(hint) == "int"
    key_hook, item_hook = converter.get_structure_hook(key_hint), converter.get_structure_hook(item_hint)

    def load(value: Any, _hint: Any) -> Any:
        if type(value) is not dict:
            raise unfit("an object")
        made: dict[Any, Any] = {}
        for key, item in value.items():
            try:
                loaded = _int_of(key) if int_keys else key_hook(key, key_hint)
            except Unfit as error:
                raise Unfit([(f" (a key of it){path}", words) for path, words in error.faults]) from None
            if loaded in made:
                raise unfit("an object whose keys differ")
            try:
                made[loaded] = item_hook(item, item_hint)
            except Unfit as error:
                raise Unfit([(f"[...]{path}", words) for path, words in error.faults]) from None
        return build(made)

    return load


def _int_of(key: str) -> int:
    try:
        number = int(key)
    except ValueError:
        raise unfit("an int as text") from None
    if str(number) != key:
        raise unfit("an int as text")
    return number


def _dump_mapping(hint: Any, converter: cattrs.Converter) -> Dump:
    key_hint, item_hint = get_args(hint)
    key_hook: Dump = converter.get_unstructure_hook(key_hint)
    item_hook = converter.get_unstructure_hook(item_hint)
    if _key_kind(hint) == "int":
        number_hook = key_hook
        key_hook = lambda key: str(number_hook(key))  # noqa: E731
    return lambda value: {key_hook(key): item_hook(item) for key, item in value.items()}


# Enums and literals, by value and by the value's type: True is not 1.


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _member(hint: type[enum.Enum], value: Any) -> enum.Enum:
    for member in hint:
        if member.value == value and type(_plain(member.value)) is type(value):
            return member
    if issubclass(hint, enum.Flag) and type(value) is int:
        try:
            return hint(value)
        except ValueError:
            pass
    raise unfit(f"one of the values of {hint.__name__}")


def _plain(value: Any) -> Any:
    """The JSON value of an enum member's or literal's value, which may be of a subclass."""
    if isinstance(value, enum.Enum):
        value = value.value
    for simple in (bool, int, float, str):
        if isinstance(value, simple):
            return simple(value)
    if value is None:
        return None
    raise UnsupportedType("only values that are str, int, float, bool or None have a JSON form")


def _load_enum(hint: Any, _converter: cattrs.Converter) -> Load:
    _dump_enum(hint, _converter)
    return lambda value, _hint: _member(hint, value)


def _dump_enum(hint: Any, _converter: cattrs.Converter) -> Dump:
    for member in hint:
        _plain(member.value)
    return lambda value: _plain(value.value)


def _is_literal(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _load_literal(hint: Any, _converter: cattrs.Converter) -> Load:
    by_value = {(type(_plain(item)), _plain(item)): item for item in get_args(hint)}
    words = "one of " + ", ".join(repr(_plain(item)) for item in get_args(hint))

    def load(value: Any, _hint: Any) -> Any:
        try:
            return by_value[type(value), value]
        except (KeyError, TypeError):
            raise unfit(words) from None

    return load


def _dump_literal(_hint: Any, _converter: cattrs.Converter) -> Dump:
    return _plain


# Unions: the JSON value alone has to tell which alternative it is.

_EVERY_KIND = frozenset({"text", "bool", "int", "float", "array", "object"})
_KIND_OF = {str: "text", bool: "bool", int: "int", float: "float", list: "array", dict: "object"}


def _is_union(hint: Any) -> bool:
    return get_origin(hint) is Union or isinstance(hint, types.UnionType)


def json_kinds(hint: Any) -> frozenset[str]:
    """Which kinds of JSON values the values of a type become."""
    bare = _bare(hint)
    if bare is float:
        return frozenset({"int", "float"})
    if bare in READERS:
        return frozenset({READERS[bare][0]})
    if _is_enum(bare):
        return frozenset(_KIND_OF.get(type(_plain(member)), "null") for member in bare)
    if _is_literal(bare):
        return frozenset(_KIND_OF.get(type(_plain(item)), "null") for item in get_args(bare))
    if _is_union(bare):
        return frozenset().union(*map(json_kinds, get_args(bare)))
    if _is_collection(bare) or _is_fixed_tuple(bare):
        return frozenset({"array"})
    if _is_mapping(bare) or _is_record(bare):
        return frozenset({"object"})
    if isinstance(bare, type):
        for simple, (kind, _) in READERS.items():
            if issubclass(bare, simple):
                return frozenset({kind})
    return _EVERY_KIND


def _is_kept(hint: Any) -> bool:
    """Whether values of the type are the same in JSON, so that it does not matter which alternative reads."""
    return _bare(hint) in (str, int, float, bool) or _is_literal(_bare(hint))


def _load_union(hint: Any, converter: cattrs.Converter) -> Load:
    arguments = sorted(get_args(hint), key=lambda argument: _bare(argument) is float)  # 1 is an int first
    hooks: dict[str, list[tuple[Any, Load]]] = {}
    for argument in arguments:
        load = converter.get_structure_hook(argument)
        for kind in json_kinds(argument):
            others = hooks.setdefault(kind, [])
            if others and not (_is_kept(argument) and all(_is_kept(other) for other, _ in others)):
                raise UnsupportedType(
                    f"{_name_of(others[0][0])} and {_name_of(argument)} cannot be told apart in JSON"
                )
            others.append((argument, load))
    words = "null or " if "null" in hooks else ""
    words += " or ".join(_name_of(argument) for argument in arguments if argument is not type(None))

    def load_alternative(value: Any, _hint: Any) -> Any:
        candidates = hooks.get("null" if value is None else _KIND_OF[type(value)], ())
        if len(candidates) == 1:
            argument, load = candidates[0]
            return load(value, argument)
        for argument, load in candidates:
            try:
                return load(value, argument)
            except Unfit:
                continue
        raise unfit(words)

    return load_alternative


def _dump_union(hint: Any, converter: cattrs.Converter) -> Dump:
    alternatives = [
        (check_for(argument), converter.get_unstructure_hook(argument))
        for argument in get_args(hint)
        if argument is not type(None)
    ]

    def dump(value: Any) -> Any:
        if value is None:
            return None
        for check, hook in alternatives:
            if check is None or check(value) is None:
                return hook(value)
        raise unfit(_name_of(hint))

    return dump
