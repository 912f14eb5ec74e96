"""Checking and freezing values by their shapes: made once per class, not per event.

``settle`` functions bring a value into its one form and raise ``Unfit`` for what is no value of the shape:
lists become tuples, dicts read-only mappings, an int in a field of floats a float. ``fits`` functions are
the fast answer for a value that is in this form already, and are compiled from text as attrs does for its
own methods.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, timezone
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, Final

from bus_core.events.faults import Unfit, unfit, within
from bus_core.events.marks import Constraint
from bus_core.events.primitives import FrozenMapping
from bus_core.events.records import with_values
from bus_core.events.shapes import (
    AnyJson,
    Collection,
    EnumMember,
    FixedTuple,
    Formed,
    Hidden,
    LiteralValue,
    MappingOf,
    OneOf,
    Record,
    Recursive,
    Ruled,
    Scalar,
    Shape,
)

__all__ = ["DECIMAL_RANGE", "FitsCompiler", "Settle", "frozen_json", "settler_of", "words_of"]

Settle = Callable[[Any], Any]
"""Gives a value in its one form; raises ``Unfit``."""

DECIMAL_RANGE: Final = 6144
"""Of IEEE 754 decimal128; without a bound a few characters make a number of megabytes."""

_USUAL_MAPPINGS: Final = (dict, FrozenMapping)
"""Asking an abstract class is dear."""

_DEEPEST: Final = 500
"""No serializer takes what nests deeper."""


# --- single values ----------------------------------------------------------------------------------------


def is_text(text: str) -> bool:
    """Whether there is UTF-8 for a text, which a lone surrogate has not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _settle_str(value: Any) -> str:
    if not isinstance(value, str):
        raise unfit("a str")
    text = value if value.__class__ is str else str.__str__(value)
    if not (text.isascii() or is_text(text)):
        raise unfit("a text without lone surrogates, which are no characters")
    return text


def _settle_int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise unfit("an int")
    return int.__int__(value)


def _settle_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise unfit("a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise unfit("a finite number (JSON has no NaN or infinity)")
        return float.__float__(value)
    try:
        number = float(value)
    except OverflowError:
        raise unfit("a number in the range of a float") from None
    if number != value:
        raise unfit("a number that a float can hold exactly (annotate the field with int, or float | int)")
    return number


def _settle_decimal(value: Any) -> Decimal:
    if not isinstance(value, Decimal):
        raise unfit("a Decimal")
    if not value.is_finite():
        raise unfit("a finite Decimal")
    if abs(value.adjusted()) > DECIMAL_RANGE:
        raise unfit(f"a finite Decimal with an exponent of at most {DECIMAL_RANGE}")
    return value


def _settle_datetime(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise unfit("a datetime")
    zone = value.tzinfo
    if zone is UTC:
        return value
    try:
        offset = value.utcoffset()
        if offset is None:
            raise unfit(
                "an aware datetime, such as datetime.now(UTC); this one is naive (it has no time zone)"
            )
        if offset.seconds % 60 or offset.microseconds:  # RFC 3339 has no such offsets: the instant is kept
            return value.astimezone(UTC)
    except (OverflowError, NotImplementedError):
        raise unfit("a time that exists in UTC") from None
    # The name of a zone does not travel, its offset does.
    return value if zone.__class__ is timezone else value.replace(tzinfo=timezone(offset), fold=0)


def has_plain_offset(value: datetime) -> bool:
    """Whether a time has an offset of whole minutes, and no zone by name."""
    zone = value.tzinfo
    if zone.__class__ is not timezone:
        return False
    offset = value.utcoffset()
    return offset is not None and not (offset.seconds % 60 or offset.microseconds)


def _settle_date(value: Any) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise unfit("a date")
    return value


def _settle_time(value: Any) -> time_of_day:
    if not isinstance(value, time_of_day):
        raise unfit("a time")
    if value.tzinfo is not None and value.utcoffset() is None:
        raise unfit("a time without a zone, or with a fixed offset")
    return value


_SETTLERS: Final[Mapping[Any, Settle]] = {
    str: _settle_str,
    int: _settle_int,
    float: _settle_float,
    Decimal: _settle_decimal,
    datetime: _settle_datetime,
    date: _settle_date,
    time_of_day: _settle_time,
}


def _settler_of_instances(cls: type[Any], words: str) -> Settle:
    def settle(value: Any) -> Any:
        if not isinstance(value, cls):
            raise unfit(words)
        return value

    return settle


def _settler_of_subclass(shape: Scalar) -> Settle:
    settle_base = _SETTLERS.get(shape.base)
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if not isinstance(value, shape.cls):
            raise unfit(words)
        if settle_base is not None:
            settle_base(value)
        return value

    return settle


def frozen_json(value: Any, room: int = _DEEPEST) -> Any:
    """A JSON value with its mappings frozen and its lists made tuples; raises ``Unfit`` for anything else."""
    kind = value.__class__
    if kind is str:
        if not (value.isascii() or is_text(value)):
            raise unfit("a text without lone surrogates, which are no characters")
        return value
    if value is None or kind is bool or kind is int:
        return value
    if isinstance(value, float):
        return _settle_float(value)
    if isinstance(value, str):
        return _settle_str(value)
    if isinstance(value, int):
        return int.__int__(value)
    if not room:
        raise unfit(f"nested less than {_DEEPEST} levels")
    if kind is dict or isinstance(value, Mapping):
        made: dict[str, Any] = {}
        try:
            for key, item in value.items():
                if not isinstance(key, str):
                    raise unfit("under a key that is a text, as in JSON")
                made[key if key.__class__ is str and key.isascii() else _settle_str(key)] = frozen_json(
                    item, room - 1
                )
        except Unfit as error:
            raise within("[...]", error) from None
        return FrozenMapping(made)
    if isinstance(value, list | tuple):
        items: list[Any] = []
        try:
            for item in value:
                items.append(frozen_json(item, room - 1))
        except Unfit as error:
            raise within(f"[{len(items)}]", error) from None
        return tuple(items)
    raise unfit("JSON values only: None, bool, int, finite float, str, list, tuple, dict with str keys")


def is_frozen_json(value: Any, room: int = _DEEPEST) -> bool:
    """Whether ``frozen_json`` would give the value as it is."""
    kind = value.__class__
    if kind is str:
        return value.isascii() or is_text(value)
    if value is None or kind is bool or kind is int:
        return True
    if kind is float:
        return math.isfinite(value)
    if not room:
        return False
    if kind is tuple:
        return all(is_frozen_json(item, room - 1) for item in value)
    return kind is FrozenMapping and all(
        key.__class__ is str and is_frozen_json(key) and is_frozen_json(item, room - 1)
        for key, item in value.items()
    )


# --- what values must be ----------------------------------------------------------------------------------

_WORDS: Final[Mapping[Any, str]] = {
    int: "an int",
    float: "a number",
    bytes: "bytes",
    time_of_day: "a time",
    type(None): "None",
}


def words_of(shape: Shape) -> str:
    """The sentence "must be ..." for a shape, as far as it goes without looking inside."""
    if isinstance(shape, Scalar):
        known = _WORDS.get(shape.cls)
        return known or f"{_article(shape.cls.__name__)} {shape.cls.__name__}"
    if isinstance(shape, EnumMember):
        return "one of " + ", ".join(f"{shape.cls.__name__}.{name}" for name in shape.cls.__members__)
    if isinstance(shape, LiteralValue):
        return "one of " + ", ".join(map(repr, shape.values))
    if isinstance(shape, Collection | MappingOf):
        return f"a {shape.noun}"
    if isinstance(shape, FixedTuple):
        return f"a tuple of {len(shape.items)}"
    if isinstance(shape, Record | Formed):
        return f"{_article(shape.cls.__name__)} {shape.cls.__name__}"
    if isinstance(shape, OneOf):
        return " or ".join(map(words_of, sorted(shape.alternatives, key=_is_none)))
    if isinstance(shape, Ruled):
        return shape.rules[0].description
    if isinstance(shape, Hidden):
        return words_of(shape.inner)
    if isinstance(shape, Recursive):
        return f"a {shape.name}"
    return "a JSON value"


def _article(name: str) -> str:
    return "an" if name[0] in "AEIOaeio" else "a"


def _is_none(shape: Shape) -> bool:
    return isinstance(shape, Scalar) and shape.cls is type(None)


# --- settling ---------------------------------------------------------------------------------------------


def settler_of(shape: Shape, known: dict[int, Settle] | None = None) -> Settle:
    """What settles values of a shape. ``known`` are the settlers of what is around it."""
    known = {} if known is None else known
    if isinstance(shape, Scalar):
        if shape.cls is not shape.base:
            return _settler_of_subclass(shape)
        return _SETTLERS.get(shape.base) or _settler_of_instances(shape.cls, words_of(shape))
    if isinstance(shape, AnyJson):
        return frozen_json
    if isinstance(shape, EnumMember):
        return _settler_of_instances(shape.cls, words_of(shape))
    if isinstance(shape, LiteralValue):
        return _settler_of_literal(shape)
    if isinstance(shape, Collection):
        return _settler_of_collection(shape, settler_of(shape.item, known))
    if isinstance(shape, FixedTuple):
        return _settler_of_fixed_tuple(shape, [settler_of(item, known) for item in shape.items])
    if isinstance(shape, MappingOf):
        if isinstance(shape.item, AnyJson) and isinstance(shape.key, Scalar) and shape.key.cls is str:
            return _settler_of_json_objects(words_of(shape))
        return _settler_of_mapping(shape, settler_of(shape.key, known), settler_of(shape.item, known))
    if isinstance(shape, OneOf):
        ordered = sorted(shape.alternatives, key=_is_none)
        return _settler_of_union([settler_of(item, known) for item in ordered])
    if isinstance(shape, Ruled):
        return _settler_of_rules(shape.rules, settler_of(shape.inner, known))
    if isinstance(shape, Hidden):
        return settler_of(shape.inner, known)
    if isinstance(shape, Formed):
        return _settler_of_formed(shape, settler_of(shape.inner, known))
    return _settler_of_recursive(shape, known)


def _settler_of_recursive(shape: Record | Recursive, known: dict[int, Settle]) -> Settle:
    if id(shape) in known:
        return known[id(shape)]
    inner: list[Settle] = []
    known[id(shape)] = lambda value: inner[0](value)
    if isinstance(shape, Record):
        inner.append(_settler_of_record(shape, known))
    else:
        assert shape.shape is not None
        inner.append(settler_of(shape.shape, known))
    known[id(shape)] = inner[0]
    return inner[0]


def _settler_of_literal(shape: LiteralValue) -> Settle:
    words = words_of(shape)

    def settle(value: Any) -> Any:
        for item in shape.values:
            if value.__class__ is item.__class__ and value == item:
                return item
        raise unfit(words)

    return settle


def _settler_of_collection(shape: Collection, settle_item: Settle) -> Settle:
    words = words_of(shape)
    is_set = shape.kind is frozenset
    kinds: Any = AbstractSet if is_set else (list, tuple) if shape.noun == "tuple" else Sequence

    def settle(value: Any) -> Any:
        if not isinstance(value, kinds) or isinstance(value, str | bytes | bytearray | memoryview):
            raise unfit(words)
        items: list[Any] = []
        same = value.__class__ is shape.kind
        place = 0
        try:
            for item in value:
                settled = settle_item(item)
                same = same and settled is item
                items.append(settled)
                place += 1
        except Unfit as error:
            raise within("[...]" if is_set else f"[{place}]", error) from None
        return value if same else shape.kind(items)

    return settle


def _settler_of_fixed_tuple(shape: FixedTuple, settlers: list[Settle]) -> Settle:
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(settlers):
            raise unfit(words)
        items: list[Any] = []
        try:
            for settle_item, item in zip(settlers, value, strict=True):
                items.append(settle_item(item))
        except Unfit as error:
            raise within(f"[{len(items)}]", error) from None
        same = value.__class__ is tuple and all(map(operator.is_, value, items))
        return value if same else tuple(items)

    return settle


def _settler_of_json_objects(words: str) -> Settle:
    def settle(value: Any) -> Any:
        if value.__class__ not in _USUAL_MAPPINGS and not isinstance(value, Mapping):
            raise unfit(words)
        return frozen_json(value)

    return settle


def _settler_of_mapping(shape: MappingOf, settle_key: Settle, settle_item: Settle) -> Settle:
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if value.__class__ not in _USUAL_MAPPINGS and not isinstance(value, Mapping):
            raise unfit(words)
        made: dict[Any, Any] = {}
        same = value.__class__ is FrozenMapping
        for key, item in value.items():
            try:
                settled_key = settle_key(key)
            except Unfit as error:
                raise within(" (a key of it)", error) from None
            try:
                settled = settle_item(item)
            except Unfit as error:
                raise within("[...]", error) from None
            same = same and settled_key is key and settled is item
            made[settled_key] = settled
        return value if same else FrozenMapping(made)

    return settle


def _settler_of_union(settlers: list[Settle]) -> Settle:
    def settle(value: Any) -> Any:
        wanted: list[str] = []
        for settle_alternative in settlers:
            try:
                return settle_alternative(value)
            except Unfit as error:
                if any(path for path, _ in error.faults):
                    raise  # the right kind of value, with a fault inside
                wanted += [words.removeprefix("must be ") for _, words in error.faults]
        raise unfit(" or ".join(dict.fromkeys(wanted)))

    return settle


def _settler_of_rules(rules: tuple[Constraint, ...], settle_inner: Settle) -> Settle:
    def settle(value: Any) -> Any:
        settled = settle_inner(value)
        for rule in rules:
            if not _keeps(rule, settled):
                raise unfit(rule.description)
        return settled

    return settle


def _keeps(rule: Constraint, value: Any) -> bool:
    try:
        return bool(rule.check(value))
    except Exception:  # a rule that cannot judge a value does not allow it
        return False


def _settler_of_formed(shape: Formed, settle_inner: Settle) -> Settle:
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if not isinstance(value, shape.cls):
            raise unfit(words)
        try:
            settle_inner(shape.form.write(value))
        except Exception:
            raise unfit(f"{words} that can be written in JSON") from None
        return value

    return settle


def _settler_of_record(shape: Record, known: dict[int, Settle]) -> Settle:
    settlers = [(field.name, field.key, settler_of(field.shape, known)) for field in shape.fields]
    words = words_of(shape)

    def settle(value: Any) -> Any:
        if value.__class__ is not shape.cls:
            if isinstance(value, shape.cls):
                raise unfit(f"{words} itself: what a subclass adds would not arrive")
            raise unfit(words)
        changes: dict[str, Any] = {}
        faults: list[tuple[str, str]] = []
        for name, key, settle_field in settlers:
            item = getattr(value, name)
            try:
                settled = settle_field(item)
            except Unfit as error:
                faults += within(f".{key}", error).faults
                continue
            if settled is not item:
                changes[name] = settled
        if faults:
            raise Unfit(faults)
        return with_values(value, changes) if changes else value

    return settle


# --- fitting ----------------------------------------------------------------------------------------------


class FitsCompiler:
    """Compiles shapes into expressions that are true for values which are in their one form."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {
            "datetime": datetime,
            "UTC": UTC,
            "FrozenMapping": FrozenMapping,
            "infinity": math.inf,
            "is_text": is_text,
            "has_plain_offset": has_plain_offset,
            "is_frozen_json": is_frozen_json,
            "time_of_day": time_of_day,
        }
        self.functions: list[str] = []
        self._helpers: dict[int, str] = {}

    def name(self, value: Any) -> str:
        """A name for a value inside the expressions."""
        name = f"given{len(self.names)}"
        self.names[name] = value
        return name

    def term(self, shape: Shape, value: str) -> str:
        """The expression for a variable of that name."""
        if isinstance(shape, Scalar):
            return self._scalar(shape, value)
        if isinstance(shape, AnyJson):
            return f"is_frozen_json({value})"
        if isinstance(shape, EnumMember):
            return f"{value}.__class__ is {self.name(shape.cls)}"
        if isinstance(shape, LiteralValue):
            known = self.name({(item.__class__, item) for item in shape.values})
            kinds = self.name(tuple({item.__class__ for item in shape.values}))
            return f"({value}.__class__ in {kinds} and ({value}.__class__, {value}) in {known})"
        if isinstance(shape, Hidden):
            return self.term(shape.inner, value)
        if isinstance(shape, Ruled):
            checks = "".join(f" and {self.name(rule.check)}({value})" for rule in shape.rules)
            return f"({self.term(shape.inner, value)}{checks})"
        if isinstance(shape, OneOf):
            ordered = sorted(shape.alternatives, key=lambda item: not _is_none(item))
            return f"({' or '.join(self.term(item, value) for item in ordered)})"
        if isinstance(shape, Formed):
            return "False"  # it is asked each time whether the value can be written
        return f"{self._helper(shape)}({value})"

    def _scalar(self, shape: Scalar, value: str) -> str:
        if _is_none(shape):
            return f"{value} is None"
        exact = f"{value}.__class__ is {self.name(shape.cls)}"
        if shape.base is str:
            return f"({exact} and ({value}.isascii() or is_text({value})))"
        if shape.base is float:
            return f"({exact} and -infinity < {value} < infinity)"
        if shape.base is datetime:
            return f"({exact} and ({value}.tzinfo is UTC or has_plain_offset({value})))"
        if shape.base is time_of_day:
            return f"({exact} and {value}.tzinfo is None)"
        if shape.base is Decimal:
            return f"({exact} and {value}.is_finite() and -6144 <= {value}.adjusted() <= 6144)"
        return exact

    def _helper(self, shape: Collection | FixedTuple | MappingOf | Record | Recursive) -> str:
        known = self._helpers.get(id(shape))
        if known is not None:
            return known
        helper = self._helpers[id(shape)] = f"fits{len(self._helpers)}"
        lines = [f"def {helper}(value):"]
        if isinstance(shape, Collection):
            lines += [
                f"    if value.__class__ is not {shape.kind.__name__}:",
                "        return False",
                "    for item in value:",
                f"        if not {self.term(shape.item, 'item')}:",
                "            return False",
                "    return True",
            ]
        elif isinstance(shape, MappingOf):
            lines += [
                "    if value.__class__ is not FrozenMapping:",
                "        return False",
                "    for key, item in value.items():",
                f"        if not ({self.term(shape.key, 'key')} and {self.term(shape.item, 'item')}):",
                "            return False",
                "    return True",
            ]
        elif isinstance(shape, FixedTuple):
            lines += [
                f"    if value.__class__ is not tuple or len(value) != {len(shape.items)}:",
                "        return False",
                f"    {''.join(f'item{index}, ' for index in range(len(shape.items))) or '()'} = value",
            ]
            terms = [self.term(item, f"item{index}") for index, item in enumerate(shape.items)]
            lines.append(f"    return {self._all(terms)}")
        elif isinstance(shape, Record):
            lines += [
                f"    if value.__class__ is not {self.name(shape.cls)}:",
                "        return False",
            ]
            terms = []
            for index, field in enumerate(shape.fields):
                lines.append(f"    item{index} = getattr(value, {field.name!r})")
                terms.append(self.term(field.shape, f"item{index}"))
            lines.append(f"    return {self._all(terms)}")
        else:
            assert shape.shape is not None
            lines.append(f"    return {self.term(shape.shape, 'value')}")
        self.functions.append("\n".join(lines))
        return helper

    @staticmethod
    def _all(terms: Any) -> str:
        return " and ".join(terms) or "True"

    def compiled(self, terms: Mapping[str, str]) -> Callable[[Any], bool]:
        """A function of an object: whether the term of each attribute is true for its value."""
        lines = ["def fits(event):"]
        lines += [f"    {name} = event.{attribute}" for name, attribute in ((f"value_{a}", a) for a in terms)]
        lines.append("    return " + self._all(terms.values()))
        exec("\n".join([*self.functions, "\n".join(lines)]), self.names)
        fits: Callable[[Any], bool] = self.names["fits"]
        return fits
