"""Field values to JSON values and back, by the fields' types: strict hooks for a cattrs converter.

A converter of ``make_converter`` knows the types of ``json_values``, enums, literals, unions whose
alternatives differ in JSON, collections, mappings, and attrs classes and dataclasses as nested values.
``converter.register_structure_hook`` and ``register_unstructure_hook`` teach it more.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from keyword import iskeyword
from typing import Any, Final, NoReturn, get_type_hints

import attrs
import cattrs

from bus_core.events.field_checks import Check, check_for, class_terms, exact_types
from bus_core.serialization.json_quick import Around, Field, Load, Quick, QuickRecord, offer_quick
from bus_core.serialization.json_shapes import (
    SHAPES,
    Dump,
    UnsupportedType,
    bare,
    is_record,
    member_of,
    name_of,
)
from bus_core.serialization.json_values import READERS, Fault, Unfit, unfit, writers
from bus_core.serialization.options import JsonOptions

__all__ = ["Record", "make_converter", "record_of"]


# --- records: classes with named fields -------------------------------------------------------------------


@attrs.frozen
class _Dump:
    """What writes a field: ``hook`` is None where its value is JSON already.

    ``check`` says what the value must be, if that has to be looked at; a value of one of the types ``exact``
    is as it must be.
    """

    name: str
    key: str
    hook: Dump | None
    check: Check | None
    exact: set[Any] | None


@attrs.define
class Record:
    """The compiled plan of a class with named fields: what reads and what writes each of them."""

    loads: list[Field] = attrs.field(factory=list)
    dumps: list[_Dump] = attrs.field(factory=list)
    _write: Callable[[Any], dict[str, Any]] | None = attrs.field(default=None, init=False)

    def load(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments; raises ``Unfit`` with every fault. Unknown keys are passed over."""
        values: dict[str, Any] = {}
        faults: list[Fault] = []
        for key, argument, hint, hook, default in self.loads:
            if key in data:
                try:
                    values[argument] = hook(data[key], hint)
                except Unfit as error:
                    faults += [(f".{key}{path}", words) for path, words in error.faults]
                except Exception:  # a hook that was registered by the application
                    faults.append((f".{key}", f"must be a {name_of(hint)}"))
            elif default is attrs.NOTHING:
                faults.append((f".{key}", "is missing"))
        if faults:
            raise Unfit(faults)
        return values

    def dump(self, record: Any) -> dict[str, Any]:
        """The JSON object of a value; raises ``Unfit`` at the first field that has none."""
        if self._write is None:  # not earlier: the fields are known by now
            self._write = _compile_dump(self.dumps)
        return self._write(record)


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
    for name, key, default in _fields_of(cls):
        if name in skipped:
            continue
        hint = hints.get(name, Any)
        try:
            load = converter.get_structure_hook(hint)
            dump: Dump | None = converter.get_unstructure_hook(hint)
        except Exception as error:
            reason = f": {error}" if isinstance(error, UnsupportedType) else ""
            raise UnsupportedType(
                f"the field {name!r} of type {name_of(hint)} has no JSON form{reason}"
            ) from None
        if bare(hint) in (str, bool, type(None)):
            dump = None
        check = None if trusted else check_for(hint)
        record.loads.append((key, key, hint, load, default))
        record.dumps.append(_Dump(name, key, dump, check, exact_types(hint)))
    return record


def _fields_of(cls: type[Any]) -> list[tuple[str, str, Any]]:
    """Of each field that the constructor takes: attribute, argument, and default, as attrs has it."""
    if attrs.has(cls):
        found = [(f.name, f.alias or f.name, f.default) for f in attrs.fields(cls) if f.init]
    else:
        found = [(f.name, f.name, _default_of(f)) for f in dataclasses.fields(cls) if f.init]
    if _is_generated(cls.__init__):
        return found
    return [(name, key, default if default is attrs.NOTHING else _ITS_OWN) for name, key, default in found]


_ITS_OWN: Final = attrs.Factory(lambda _self: None, takes_self=True)
"""The default of an argument of a constructor that somebody wrote: only leaving it out gives it."""


def _is_generated(constructor: Any) -> bool:
    """Whether a constructor is one that attrs or dataclasses made of the fields."""
    file = getattr(getattr(constructor, "__code__", None), "co_filename", "")
    return file == "<string>" or file.startswith("<attrs generated")


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return attrs.Factory(field.default_factory)
    return attrs.NOTHING if field.default is dataclasses.MISSING else field.default


def _compile_dump(fields: Sequence[_Dump]) -> Callable[[Any], dict[str, Any]]:
    """A function that makes the JSON object of a value. It is compiled from text, as readers are."""
    keys = [field.key for field in fields]
    names: dict[str, Any] = {"unfit": unfit, "inside": _inside, "keys": keys}
    lines = ["def write(record):", "    try:", "        at = 0"]  # the last one is for classes without fields
    for index, field in enumerate(fields):
        value = f"value{index}"
        is_plain = field.name.isidentifier() and not iskeyword(field.name)
        attribute = f"record.{field.name}" if is_plain else f"getattr(record, {field.name!r})"
        lines += [f"        at = {index}", f"        {value} = {attribute}"]
        if field.check is not None:
            names[f"check{index}"] = field.check
            known = class_terms(value, field.exact, f"type{index}", names)
            lines += [
                f"        if not ({' or '.join(known) or False}):",
                f"            wanted = check{index}({value})",
                "            if wanted is not None:",
                "                raise unfit(wanted)",
            ]
        if field.hook is not None:
            names[f"hook{index}"] = field.hook
            lines.append(f"        {value} = hook{index}({value})")
    made = ", ".join(f"{field.key!r}: value{index}" for index, field in enumerate(fields))
    lines += [
        "    except Exception as error:",
        "        raise inside(keys[at], error) from None",
        f"    return {{{made}}}",
    ]
    exec("\n".join(lines), names)
    write: Callable[[Any], dict[str, Any]] = names["write"]
    return write


def _inside(key: str, error: Exception) -> Unfit:
    """What is wrong with the field of that key, as a fault of the whole."""
    if isinstance(error, Unfit):
        return Unfit([(f".{key}{path}", words) for path, words in error.faults])
    return Unfit([(f".{key}", "has a value that does not fit its type")])


# --- the converter ----------------------------------------------------------------------------------------


def make_converter(limits: JsonOptions) -> cattrs.Converter:
    """A converter with strict hooks for everything that this module knows."""
    converter = cattrs.Converter(
        detailed_validation=False,
        structure_fallback_factory=_unknown,
        unstructure_fallback_factory=_unknown,
    )
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
            records[hint] = record = (
                Record()
            )  # known before it is filled, for classes that contain themselves
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

        quick = QuickRecord(hint, record.loads)
        return offer_quick(load, lambda _hint, around: quick.compiled(around))

    def dump_record(hint: Any, made_by: cattrs.Converter) -> Dump:
        return nested(hint, made_by).dump

    records_shape = (is_record, load_record, dump_record)
    for predicate, load_factory, dump_factory in (records_shape, *SHAPES):
        converter.register_structure_hook_factory(predicate, load_factory)
        converter.register_unstructure_hook_factory(predicate, dump_factory)
    return converter


def _unknown(hint: Any) -> NoReturn:
    raise UnsupportedType(f"{name_of(hint)} is not a type that JSON or the serializer knows")


def _load_simple(simple: Any, read: Callable[[Any], Any]) -> Load:
    def load(value: Any, hint: Any) -> Any:
        if hint is simple:
            return read(value)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):  # class Colour(str, Enum)
            return member_of(hint, value)
        return hint(read(value))  # class Email(str)

    def quick(hint: Any, _around: Around) -> Quick:
        return read if hint is simple else lambda value: load(value, hint)

    return offer_quick(load, quick)
