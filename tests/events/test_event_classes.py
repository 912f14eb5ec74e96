"""Classes of events: ``@event`` refuses what could not travel, and says which field and why."""

from __future__ import annotations

import datetime as clock
import enum
import importlib.util
import ipaddress
import json
import sys
import textwrap
import types
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass
from decimal import Decimal
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    LiteralString,
    NamedTuple,
    Protocol,
    TypedDict,
    TypeVar,
)
from unittest import mock
from uuid import UUID

import attrs
import pytest

from bus_core import (
    BaseEvent,
    Constraint,
    DeadLetter,
    Envelope,
    Event,
    FrozenMapping,
    InvalidEvent,
    JsonForm,
    Message,
    Personal,
    Topic,
    event,
    open_bus,
)
from bus_core.events import base, model_of
from bus_core.events.base import without_personal
from bus_core.serialization import JsonSerializer, schema_of

T = TypeVar("T")
USER = UUID(int=10)


def only(annotation: Any, **body: Any) -> Any:
    """A class of events with one field of a type."""
    made = type("Only", (Event,), {"__annotations__": {"value": annotation}, "__module__": __name__} | body)
    return event(made)


def with_ids(ids: Any) -> Any:
    """A class of events with ids of a type."""
    return event(
        types.new_class("Odd", (Event[ids],), {}, lambda body: body.update({"__module__": __name__}))
    )


def refusal(annotation: Any, **body: Any) -> str:
    """Why a class with one field of a type is refused."""
    with pytest.raises(TypeError) as caught:
        only(annotation, **body)
    message = str(caught.value)
    assert message.startswith("events of Only could not travel: ")
    return message.partition(": ")[2]


# --- types of fields --------------------------------------------------------------------------------------


class Line(TypedDict):
    sku: str


class HasName(Protocol):
    name: str


class Pair(NamedTuple):
    left: int
    right: int


class Empty(enum.Enum):
    pass


@attrs.define
class Changeable:
    sku: str


@dataclass
class ChangeableToo:
    sku: str


@attrs.define
class Assignable:
    """Runs a converter at each assignment."""

    sku: str = attrs.field(converter=str.strip)


@attrs.frozen
class Basket:
    lines: list[str]


@attrs.frozen
class Cached:
    text: str
    size: int = attrs.field(init=False, default=0)


@dataclass(frozen=True)
class Seeded:
    text: str
    seed: InitVar[int]


@attrs.frozen
class Renamed:
    text: str

    def __init__(self, words: str) -> None:
        self.__attrs_init__(words)  # type: ignore[attr-defined]


@attrs.frozen
class Money:
    minor: int
    currency: str = "EUR"


@dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0


AnyForm: Any = Annotated[complex, JsonForm(object, write=str, read=complex)]
MUTABLE = "can be changed, also by one handler while others use it; annotate the field with"


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (list[str], f"value: list[str] {MUTABLE} tuple[T, ...] or Sequence[T]; a list that is given becomes"),
        (dict[str, int], f"value: dict[str, int] {MUTABLE} Mapping[K, V]; a dict that is given becomes"),
        (set[str], f"value: set[str] {MUTABLE} frozenset[T]"),
        (list, f"value: list {MUTABLE}"),
        (bytearray, f"value: bytearray {MUTABLE} bytes"),
        (MutableMapping[str, int], MUTABLE),
        (Mapping[str, list[int]], f"value: list[int] {MUTABLE}"),
        (Personal[list[str] | None], f"value: list[str] {MUTABLE}"),
        (
            Changeable,
            "value: Changeable.sku can be changed, also by one handler while others use it; decorate",
        ),
        (ChangeableToo, "the class with @attrs.frozen, or @dataclass(frozen=True)"),
        (Assignable, "value: Assignable.sku can be changed"),
        (tuple[Basket, ...], f"value: Basket.lines: list[str] {MUTABLE}"),
        (
            Cached,
            "value: Cached.size is no argument of Cached, so that it would not travel; make it a property",
        ),
        (
            Seeded,
            "Seeded cannot be made of its fields when it is read (missing a required argument: 'seed')",
        ),
        (Renamed, "value: Renamed cannot be made of its fields"),
        (Line, "value: Line is a TypedDict, whose values can be changed; make it a class with @attrs.frozen"),
        (HasName, "value: HasName is a Protocol: nobody could tell which class to make when a value is read"),
        (Pair, "value: Pair is a named tuple, which has no form in JSON"),
        (
            ipaddress.IPv4Address,
            "value: IPv4Address has no form in JSON; use a type that has one, or say how it travels: "
            "Annotated[IPv4Address, JsonForm(str, write=..., read=...)]",
        ),
        (complex, "value: complex has no form in JSON"),
        (tuple[complex, ...], "value: complex has no form in JSON"),
        (Callable[[], None], "has no form in JSON that could be read back"),
        (Iterable[str], "value: collections.abc.Iterable[str] has no form in JSON that could be read back"),
        (Collection[str], "has no form in JSON that could be read back"),
        (type[int], "has no form in JSON that could be read back"),
        (Event, "value: Event is an event, which is no field of another one; take over what matters"),
        (tuple, "value: tuple does not say of what, as in tuple[str, ...]"),
        (Mapping, "value: Mapping does not say of what, as in Mapping[str, int]"),
        (T, "value: T stands for any type, so that nobody could read a value of it back: name the type"),
        (UUID | str, "value: UUID and str cannot be told apart in JSON"),
        (Decimal | clock.datetime | None, "value: Decimal and datetime cannot be told apart in JSON"),
        (Money | Point, "value: Money and Point cannot be told apart in JSON"),
        (Any | UUID, "cannot be told apart in JSON"),
        (Mapping[float, str], "value: the keys of a mapping must be int, or a type that is text in JSON"),
        (Mapping[str | None, str], "value: the keys of a mapping must be int"),
        (frozenset[Mapping[str, int]], "have no hash, which those of a set need"),
        (AbstractSet[Any], "have no hash, which those of a set need"),
        (enum.Enum("Odd", {"A": (1, 2)}), "value: only values that are str, int, finite float, bool or None"),
        (enum.Enum("Odd", {"A": float("nan")}), "value: only values that are str, int, finite float"),
        (Empty, "value: Empty has no members"),
        (Literal[b"a"], "value: only values that are str, int, finite float, bool or None have a JSON form"),
        (
            Annotated[list[int], JsonForm(str, write=str, read=list)],
            "value: a JsonForm is for values of a class",
        ),
        (
            AnyForm | None,
            "cannot be told apart in JSON",
        ),
    ],
    ids=str,
)
def test_a_type_whose_values_could_not_travel_is_refused(annotation: Any, reason: str) -> None:
    """The error names the field and says why, and where there is one, what to write instead."""
    assert reason in refusal(annotation)


@pytest.mark.parametrize(
    ("annotation", "given", "kept"),
    [
        (Sequence[str], ["a"], ("a",)),
        (tuple[str, ...], ["a"], ("a",)),
        (Mapping[str, Sequence[int]], {"a": [1]}, FrozenMapping({"a": (1,)})),
        (AbstractSet[int], {1}, frozenset({1})),
        (LiteralString, "a", "a"),
        (Final[int], 1, 1),
        (float | int, 2**53 + 1, 2**53 + 1),
        (object, {"a": [{}]}, FrozenMapping({"a": (FrozenMapping(),)})),
    ],
    ids=str,
)
def test_values_are_frozen_when_the_event_is_made(annotation: Any, given: Any, kept: Any) -> None:
    """Lists become tuples, dicts read-only mappings and sets frozensets, all the way down."""
    made = only(annotation)(aggregate_id=USER, value=given)
    assert made.value == kept
    assert type(made.value) is type(kept)


def test_what_a_handler_gets_is_nobody_elses_to_change() -> None:
    """The list that was given is another object, also inside of a nested value, which is left as it was."""

    @attrs.frozen
    class Order:
        lines: Sequence[str]

    lines = ["a"]
    order = Order(lines)
    made = only(Order)(aggregate_id=USER, value=order)
    lines.append("b")
    assert made.value == Order(("a",))
    assert order.lines == ["a", "b"]


def test_an_int_in_a_field_of_ints_and_floats_stays_an_int() -> None:
    """``float | int`` keeps both apart, whatever their order."""
    for annotation in (float | int, int | float, float | int | None):
        for value in (1, 1.0, 2**60 + 1):
            assert type(only(annotation)(aggregate_id=USER, value=value).value) is type(value)


class Zone(clock.tzinfo):
    """A zone by name, as of zoneinfo, with two offsets."""

    def utcoffset(self, at: clock.datetime | None) -> clock.timedelta | None:
        return None if at is None else clock.timedelta(hours=1 if at.fold else 2)

    def dst(self, at: clock.datetime | None) -> None:
        return None

    def tzname(self, at: clock.datetime | None) -> str:
        return "Europe/Bern"


def test_a_time_keeps_its_offset_and_not_the_name_of_its_zone() -> None:
    """As in JSON, which has no names of zones, so that handlers see the same on every adapter."""
    for fold, hours in ((0, 2), (1, 1)):
        at = clock.datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=Zone())
        kept = only(clock.datetime)(aggregate_id=USER, value=at).value
        assert kept.tzinfo == clock.timezone(clock.timedelta(hours=hours))
        assert kept.isoformat() == f"2024-10-27T02:30:00+0{hours}:00"


def test_a_nested_value_is_checked_when_the_event_is_made() -> None:
    """Attrs does not check types, so the event does; all faults are told, each with its place."""
    with pytest.raises(InvalidEvent) as caught:
        only(Money)(aggregate_id=USER, value=Money("secret", 5))  # type: ignore[arg-type]
    assert [fault.partition(", got")[0] for fault in caught.value.faults] == [
        "value.minor must be an int",
        "value.currency must be a str",
    ]


def test_a_value_of_a_subclass_of_a_nested_class_is_refused() -> None:
    """It would arrive as one of the nested class, without what it adds."""

    @attrs.frozen
    class Tip(Money):
        for_whom: str = ""

    with pytest.raises(
        InvalidEvent, match="value must be a Money itself: what a subclass adds would not arrive"
    ):
        only(Money)(aggregate_id=USER, value=Tip(1))


# --- defaults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "default", "remedy"),
    [
        (Sequence[str], [], "write () for an empty one, or attrs.field(factory=list)"),
        (Mapping[str, int], {}, "write FrozenMapping() for an empty one, or attrs.field(factory=dict)"),
        (AbstractSet[str], set(), "write frozenset() for an empty one, or attrs.field(factory=set)"),
        (Any, attrs.field(default=[]), "all events would share its default, a list that can be changed"),
        ("NotDefinedYet", [], "all events would share its default, a list that can be changed"),
    ],
    ids=str,
)
def test_a_default_that_can_be_changed_is_refused(annotation: Any, default: Any, remedy: str) -> None:
    """All events would share it, so that the error shows what to write instead."""
    message = refusal(annotation, value=default)
    assert message.startswith("value: all events would share its default, a ")
    assert remedy in message


def test_a_default_of_another_type_is_refused() -> None:
    """Such an event could never be made without the field."""
    assert refusal(int, value="7") == "value: its default must be an int"
    assert only(float, value=1)(aggregate_id=USER).value == 1.0
    assert only(Sequence[str], value=attrs.field(factory=list))(aggregate_id=USER).value == ()


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("aggregate_id", "for ids of another type derive from Event[int] or Event[str]"),
        ("event_id", "every event has it, and adapters, logs and other services rely on what it is"),
        ("occurred_at", "every event has it"),
        ("metadata", "every event has it"),
        ("type", "it names the class of the event on the wire; give it to @event(type=...), or rename"),
    ],
)
@pytest.mark.parametrize("how", ["annotated", "assigned", "in a mixin", "in an attrs mixin"])
def test_what_every_event_has_cannot_be_defined_again(name: str, reason: str, how: str) -> None:
    """Neither as a field nor as anything else, in the class itself or in what it derives from."""
    body: dict[str, Any] = {"__module__": __name__}
    defining = body | (
        {name: property(lambda _: 1)} if how != "annotated" else {"__annotations__": {name: str}}
    )
    if how == "in an attrs mixin":
        mixin = attrs.define(slots=False)(type("Mixin", (), body | {"__annotations__": {name: str}}))
        cls = type("Odd", (mixin, Event), body)
    elif how == "in a mixin":
        cls = type("Odd", (type("Mixin", (), defining), Event), body)
    else:
        cls = type("Odd", (Event,), defining)
    with pytest.raises(TypeError) as caught:
        event(cls)
    assert str(caught.value).startswith(f"events of Odd could not travel: {name} cannot be defined again: ")
    assert reason in str(caught.value)


def test_what_the_class_needs_for_itself_cannot_be_defined() -> None:
    """A reader could not call another constructor, and the others would do nothing, or harm."""
    for name, reason in {
        "__init__": "write a classmethod",
        "__post_init__": "nobody calls it; name it __attrs_post_init__",
        "__setattr__": "events refuse assignments",
    }.items():
        with pytest.raises(TypeError, match=f"{name} cannot be defined again: .*{reason}"):
            event(type("Odd", (Event,), {name: lambda self: None, "__module__": __name__}))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"_type": str}, "_type: an event has an argument 'type' already; rename the field"),
        ({"_event_id": str}, "_event_id: an event has an argument 'event_id' already; rename the field"),
        ({"a": int, "_a": int}, "_a: a is the argument 'a' as well; rename one of them"),
    ],
    ids=str,
)
def test_arguments_that_collide_are_refused(body: dict[str, Any], reason: str) -> None:
    """A leading underscore is no part of an argument's name."""
    with pytest.raises(TypeError) as caught:
        event(type("Odd", (Event,), {"__annotations__": body, "__module__": __name__}))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [name for name in dir(Event) if not name.startswith("_") and name not in (*base.BASE_FIELDS, "type")]
    + ["__hash__"],
)
@pytest.mark.parametrize("mixed_in", [False, True])
def test_a_field_that_would_hide_an_attribute_is_refused(name: str, mixed_in: bool) -> None:
    """Callers, serializers and the bus rely on what every event has."""
    body = {"__annotations__": {name: int}, name: 3, "__module__": __name__}
    cls = type("Odd", (Event,), body)
    if mixed_in:
        mixin = attrs.define(slots=False, eq=False)(type("Mixin", (), body))
        cls = type("Odd", (mixin, Event), {"__module__": __name__})
    with pytest.raises(TypeError, match=f"{name}: it would hide the attribute that every event has; rename"):
        event(cls)


def test_fields_that_would_not_travel_are_refused() -> None:
    """Those that the constructor does not take, that can be assigned, and that attrs would pass over."""
    assert "value: no argument gives it" in refusal(int, value=attrs.field(init=False, default=1))
    loose = attrs.field(on_setattr=attrs.setters.NO_OP)
    assert "value: its on_setattr would let it be changed" in refusal(int, value=loose)
    assert "has no annotation" in refusal(int, other=attrs.field())


@pytest.mark.parametrize("name", ["self", "class", "not a name"])
def test_a_field_that_is_no_name_of_an_argument_is_refused(name: str) -> None:
    """It could not be given to the class."""
    with pytest.raises(TypeError, match=f"value: '{name}' cannot be the name of an argument; rename"):
        only(int, value=attrs.field(alias=name))


def test_another_default_for_an_inherited_field_needs_its_annotation() -> None:
    """Without it attrs would hide the field, and no event could be made."""
    with pytest.raises(TypeError, match="total: it would hide an inherited field; annotate it, for another"):
        event(type("Odd", (OrderPlaced,), {"total": 5, "__module__": __name__}))

    @event
    class Paid(OrderPlaced):
        total: int = 5

    assert Paid(aggregate_id=1).total == 5


def test_a_base_class_without_the_decorator_is_refused() -> None:
    """Attrs takes no fields from it: they would be missing."""
    middle = type("Middle", (Event,), {"__annotations__": {"email": str}, "__module__": __name__})
    with pytest.raises(TypeError, match="email: the class Middle lacks the decorator @event"):
        event(type("Odd", (middle,), {"__module__": __name__}))


@dataclass
class Audited:
    by: str
    kind: ClassVar[str] = ""


def test_a_mixin_that_attrs_passes_over_is_refused() -> None:
    """Attrs takes the fields of attrs classes alone; a protocol may name fields that the class has."""
    with pytest.raises(TypeError, match=r"by: the class Audited lacks the decorator @attrs\.define"):
        event(type("Odd", (Audited, Event), {"__module__": __name__}))

    @event
    class Named(HasName, Event):
        name: str

    assert Named(aggregate_id=USER, name="a").name == "a"


def test_a_class_is_decorated_once() -> None:
    """A second decorator would take the slots of the first for defaults."""
    for again in (event, attrs.define):
        with pytest.raises(TypeError, match="it is decorated already; @event alone makes an attrs class"):
            event(again(type("Odd", (Event,), {"__annotations__": {"a": int}, "__module__": __name__})))


def test_nothing_derives_from_the_ad_hoc_event() -> None:
    """Its fields would not travel: it carries ``data`` alone."""
    with pytest.raises(
        TypeError, match="BaseEvent carries its data as it is, without fields; derive from Event"
    ):
        event(type("Odd", (BaseEvent,), {"__annotations__": {"email": str}, "__module__": __name__}))


@pytest.mark.parametrize("name", ["a b", "", "x" * 256, 7, "日本"])
def test_a_type_that_the_ad_hoc_event_refuses_is_refused(name: Any) -> None:
    """A subscriber without the class gets a ``BaseEvent`` of that type."""
    with pytest.raises(TypeError, match=r"its type must be a type name of letters"):
        event(type=name or "-")(type("Odd", (Event,), {}))
    with pytest.raises(TypeError, match=r"give one: @event\(type=\.\.\.\)"):
        event(type("日本", (Event,), {}))


def test_all_faults_of_a_class_are_told_together() -> None:
    """One error names every field that could not travel."""
    annotations = {"lines": list[str], "where": complex, "name": str}
    with pytest.raises(TypeError) as caught:
        event(type("Odd", (Event,), {"__annotations__": annotations, "__module__": __name__}))
    assert "lines: list[str]" in str(caught.value)
    assert "; where: complex" in str(caught.value)
    assert "name:" not in str(caught.value)


# --- rules of a class's own -------------------------------------------------------------------------------


class Constrained:
    """A mixin with a rule, which is no event."""

    def __attrs_post_init__(self) -> None:
        pass


@pytest.mark.parametrize("bases", [(Event,), (Constrained, Event)], ids=["of its own", "of a mixin"])
def test_a_rule_over_several_fields_keeps_the_checks_of_each(bases: tuple[type, ...]) -> None:
    """An own ``__attrs_post_init__`` comes after the checks, which it neither calls nor can switch off."""
    seen: list[Any] = []

    def __attrs_post_init__(self: Any) -> None:
        seen.append(self.lines)

    own = {"__attrs_post_init__": __attrs_post_init__} if bases == (Event,) else {}
    annotations = {"lines": Sequence[str]}
    cls: Any = event(type("Odd", bases, {"__annotations__": annotations, "__module__": __name__} | own))
    with pytest.raises(InvalidEvent) as caught:
        cls(aggregate_id="no uuid", lines=5, occurred_at="yesterday")
    assert len(caught.value.faults) == 3
    cls(aggregate_id=USER, lines=["a"])
    assert seen == ([("a",)] if own else [])


def test_what_a_rule_puts_into_the_event_is_checked_as_well() -> None:
    """A value that ``__attrs_post_init__`` sets is brought into its one form too, or refused."""

    @event
    class Counted(Event):
        words: Sequence[str]

        def __attrs_post_init__(self) -> None:
            object.__setattr__(self, "words", [word.lower() for word in self.words] or 7)

    assert Counted(aggregate_id=USER, words=["A", "b"]).words == ("a", "b")
    with pytest.raises(InvalidEvent, match="words must be a Sequence"):
        Counted(aggregate_id=USER, words=[])


def test_a_rule_that_raises_does_not_allow_the_value() -> None:
    """A ``Constraint`` that cannot judge a value refuses it, in its own words."""
    rule = Constraint("a word of at least two letters", lambda text: text[1].isalpha())
    cls = only(Annotated[str, rule])
    assert cls(aggregate_id=USER, value="ab").value == "ab"
    with pytest.raises(InvalidEvent, match="value must be a word of at least two letters, got 'a'"):
        cls(aggregate_id=USER, value="a")


# --- where annotations are read ---------------------------------------------------------------------------


def module_of(directory: Path, name: str, text: str) -> types.ModuleType:
    """A module of that text, as if it had been imported."""
    path = directory / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


PARENT = """
    from __future__ import annotations
    from uuid import UUID as Key
    from bus_core import Event, Personal, event

    @event
    class Placed(Event):
        order: Key
        email: Mail

    Mail = Personal[str]
"""
CHILD = """
    from __future__ import annotations
    import datetime  # the module, as most programs import it
    from bus_core import event
    from parent_module import Placed

    class UUID: pass
    class Key: pass
    class Mail: pass

    @event
    class Paid(Placed):
        at: datetime.datetime
"""


def test_annotations_are_read_in_the_module_that_has_them(tmp_path: Path) -> None:
    """Names that the module of a subclass gives to other things change no check of what is inherited."""
    try:
        module_of(tmp_path, "parent_module", PARENT)
        paid: Any = module_of(tmp_path, "child_module", CHILD).Paid
    finally:
        sys.modules.pop("child_module", None)
        sys.modules.pop("parent_module", None)
    good = {"aggregate_id": USER, "order": USER, "email": "secret", "at": clock.datetime.now(clock.UTC)}
    assert "secret" not in repr(paid(**good))
    for name, wrong in {
        "occurred_at": clock.datetime(2026, 1, 1),
        "order": "7",
        "email": 7,
        "at": None,
        "aggregate_id": "7",
    }.items():
        with pytest.raises(InvalidEvent) as caught:
            paid(**good | {name: wrong})
        assert [fault.split()[0] for fault in caught.value.faults] == [name]


def test_names_around_a_class_do_not_change_its_base_fields() -> None:
    """A local class that is called like a type of ``Event`` is not asked."""

    class UUID:
        pass

    class datetime:
        pass

    @event
    class Sent(Event):
        at: clock.date

    assert UUID is not datetime
    assert Sent(aggregate_id=USER, at=clock.date(2026, 1, 1)).event_id.version == 7


def test_time_follows_a_clock_that_tests_freeze() -> None:
    """``occurred_at`` asks for the time where the module has it, as freezing replaces it there."""

    class Frozen(clock.datetime):
        @classmethod
        def now(cls, tz: clock.tzinfo | None = None) -> Frozen:
            return cls(2020, 1, 2, tzinfo=tz)

    with mock.patch.object(base, "datetime", Frozen):
        made = only(int)(aggregate_id=USER, value=1)
    assert made.occurred_at == clock.datetime(2020, 1, 2, tzinfo=clock.UTC)


# --- aliases of Python 3.12 -------------------------------------------------------------------------------

ALIASES = """
    from collections.abc import Mapping
    from bus_core import Constraint, Event, Personal, event

    type Email = Personal[str]
    type Many[T] = tuple[T, ...]
    type Json = str | int | None | tuple[Json, ...] | Mapping[str, Json]
    type Lists = list[str]
    type Circle = Circle | int

    @event
    class Sent(Event):
        to: Email
        cc: Many[Email | None] = ()
        body: Json = None
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has the statement")
def test_type_aliases_are_looked_through(tmp_path: Path) -> None:
    """Values of a field annotated with a ``type`` alias are checked, frozen and hidden like any other."""
    aliases: Any = module_of(tmp_path, "aliases_module", ALIASES)
    made = aliases.Sent(aggregate_id=USER, to="secret", cc=["secret", None], body={"a": [1, {"b": None}]})
    assert made.cc == ("secret", None)
    assert made.body == {"a": (1, {"b": None})}
    assert type(made.body["a"][1]) is FrozenMapping
    assert "secret" not in repr(made)
    for wrong in ({"to": 5}, {"to": "a", "cc": [5]}, {"to": "a", "body": {"a": [1.5]}}):
        with pytest.raises(InvalidEvent):
            aliases.Sent(aggregate_id=USER, **wrong)
    assert "list[str] can be changed" in refusal(aliases.Lists)
    assert "Circle is an alternative of itself" in refusal(aliases.Circle)


# --- aggregate ids ----------------------------------------------------------------------------------------


@event
class OrderPlaced(Event[int]):
    total: int = 0


@event
class OrderPaid(OrderPlaced):
    pass


@event
class CodeScanned(Event[str]):
    pass


class Sku(str):
    __slots__ = ()


Short = Annotated[str, Constraint("at most five characters", lambda text: len(text) <= 5)]


@pytest.mark.parametrize(
    ("cls", "given", "kind"),
    [
        (OrderPlaced, 17, int),
        (OrderPaid, -(2**100), int),
        (CodeScanned, 'order "17"', str),
        (CodeScanned, str(USER), str),
        (with_ids(Sku), Sku("a-1"), Sku),
        (with_ids(Short), "a-1", str),
        (with_ids("UUID"), USER, UUID),
    ],
    ids=str,
)
def test_a_class_says_of_which_type_its_ids_are(cls: Any, given: Any, kind: type) -> None:
    """``Event[int]`` and ``Event[str]``, and types made of them, also by inheritance."""
    made = cls(aggregate_id=given)
    assert made.aggregate_id == given
    assert type(made.aggregate_id) is kind
    assert model_of(cls).id.read(str(given)) == given


@pytest.mark.parametrize(
    ("cls", "wrong", "wanted"),
    [
        (OrderPlaced, "17", "an int"),
        (OrderPlaced, True, "an int"),
        (OrderPlaced, 1 << 128, "an int of at most 128 bits"),
        (OrderPaid, USER, "an int"),
        (CodeScanned, "", "a text that is not empty"),
        (CodeScanned, "\ud800", "a text without lone surrogates"),
        (CodeScanned, USER, "a str"),
        (with_ids(Short), "abcdef", "at most five characters"),
    ],
)
def test_an_id_of_another_type_is_refused(cls: Any, wrong: Any, wanted: str) -> None:
    """The error says what ids of the class are."""
    with pytest.raises(InvalidEvent, match=f"aggregate_id must be {wanted}"):
        cls(aggregate_id=wrong)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (float, "aggregate_id: is UUID, int, str or a type made of one of them, not float"),
        (int | str, "aggregate_id: is UUID, int, str or a type made of one of them, not int | str"),
        (Personal[str], "aggregate_id: is personal, but ids are shown in logs and commands; use another id"),
        (T, "aggregate_id: T stands for any type"),
    ],
    ids=str,
)
def test_ids_that_could_not_be_read_back_are_refused(ids: Any, reason: str) -> None:
    """An id is one text, which has to say by itself what it is."""
    with pytest.raises(TypeError) as caught:
        with_ids(ids)
    assert reason in str(caught.value)


def test_the_ad_hoc_event_takes_uuids_and_texts() -> None:
    """A text that is the text of a UUID is one, as it is for who receives the event."""
    assert BaseEvent("a.b", str(USER)).aggregate_id == USER
    for text in ("order-17", "17", str(USER).replace("-", ""), str(UUID(int=10**37)).upper()):
        assert BaseEvent("a.b", text).aggregate_id == text
    for wrong in (17, "", None):
        with pytest.raises(InvalidEvent, match="aggregate_id must be a"):
            BaseEvent("a.b", wrong)  # type: ignore[arg-type]


# --- personal data ----------------------------------------------------------------------------------------


@attrs.frozen
class Contact:
    street: Personal[str]
    city: str
    mails: tuple[Personal[str], ...] = ()


@attrs.frozen
class Person:
    contact: Contact
    friends: tuple[Person, ...] = ()


Secret = Personal[str]
SECRET = "planted7secret"
CONTACT = Contact(SECRET, "Bern", (SECRET,))
PERSONAL: list[tuple[Any, Any, Any]] = [
    (Personal[str], SECRET, [SECRET]),
    (Secret | None, SECRET, [SECRET]),
    (Annotated[str, Personal], SECRET, [SECRET]),
    ("Personal[str]", SECRET, [SECRET]),
    ("DefinedLater", SECRET, [SECRET]),
    ("tuple[DefinedLater, ...]", (SECRET,), (SECRET, 5)),
    (Mapping[Personal[str], int], {SECRET: 1}, {SECRET: SECRET}),
    (Contact, CONTACT, Contact(SECRET, 5, ())),  # type: ignore[arg-type]
    (Contact | None, CONTACT, SECRET),
    (tuple[Contact, int], (CONTACT, 1), (CONTACT, SECRET)),
    (Sequence[Contact], [CONTACT], [CONTACT, SECRET]),
    (Mapping[str, Contact], {"home": CONTACT}, {"home": SECRET}),
    (Contact | str, CONTACT, [SECRET]),
    (Person, Person(CONTACT, (Person(CONTACT),)), Person(CONTACT, (SECRET,))),  # type: ignore[arg-type]
    (Annotated[Contact, Constraint("in Basel", lambda contact: contact.city == "Bern")], CONTACT, SECRET),
]


@pytest.mark.parametrize(("annotation", "good", "bad"), PERSONAL, ids=str)
def test_personal_values_are_hidden_at_any_depth(annotation: Any, good: Any, bad: Any) -> None:
    """Behind aliases and forward references, in containers and nested classes: in the repr and in errors."""
    cls = only(annotation)
    made = cls(aggregate_id=USER, value=good)
    for shown in (repr(made), json.dumps(made.to_dict(personal=False))):
        assert SECRET not in shown
        assert "<personal>" in shown
    assert SECRET in json.dumps(made.to_dict())
    with pytest.raises(InvalidEvent) as caught:
        cls(aggregate_id=USER, value=bad)
    assert SECRET not in str(caught.value)
    assert "personal value not shown" in str(caught.value)


def test_a_dict_of_an_event_without_a_class() -> None:
    """The data of an event without a class is plain data; hidden, only its names are shown."""
    made = BaseEvent("a.b", "7", data={"name": SECRET, "list": [1, {"deep": None}]})
    assert made.to_dict()["data"] == {"name": SECRET, "list": [1, {"deep": None}]}
    assert made.to_dict(personal=False)["data"] == {"name": "<personal>", "list": "<personal>"}
    assert (made.to_dict()["type"], made.to_dict()["aggregate_id"]) == ("a.b", "7")


@pytest.mark.parametrize(("annotation", "good", "_bad"), PERSONAL, ids=str)
def test_personal_values_are_taken_out_of_texts(annotation: Any, good: Any, _bad: Any) -> None:
    """Values marked at any depth are not in a text about the event; others stay."""
    event = only(annotation)(aggregate_id=USER, value=good)
    text = f"no account {SECRET} ({SECRET!r}) in Bern for {USER}"
    expected = f"no account <personal> ('<personal>') in Bern for {USER}"
    assert without_personal(text, event) == expected


@pytest.mark.parametrize(
    ("annotation", "value", "text", "expected"),
    [
        (Personal[str], "abc", "abcabc", "abcabc"),
        (Personal[str], "Zoë\n", r"got 'Zoë\n'", "got '<personal>'"),
        (Personal[int], 123456, "got 123456", "got <personal>"),
        (Personal[bool], True, "got True", "got True"),
        (Personal[str | None], None, "got None", "got None"),
        (Personal[clock.date], clock.date(1990, 5, 17), "born 1990-05-17", "born <personal>"),
        (Personal[Contact], CONTACT, "in Bern", "in <personal>"),
        (str, SECRET, SECRET, SECRET),
    ],
)
def test_how_personal_values_are_found_in_texts(
    annotation: Any, value: Any, text: str, expected: str
) -> None:
    """As they are written, also escaped, if they are not so short that they are found everywhere."""
    assert without_personal(text, only(annotation)(aggregate_id=USER, value=value)) == expected


def test_what_is_not_personal_is_shown() -> None:
    """Of a nested class only the marked fields are hidden."""
    shown = repr(only(tuple[Contact, ...])(aggregate_id=USER, value=[CONTACT]))
    assert shown.endswith("value=(Contact(street=<personal>, city='Bern', mails=<personal>),))")


def test_a_validator_does_not_tell_a_personal_value() -> None:
    """Those of attrs quote the value; the error of an event names the field alone."""
    ways: list[Any] = [
        {"validator": attrs.validators.in_(["a"])},
        {"converter": int},
        {"converter": attrs.Converter(lambda value, _: int(str(value)), takes_self=True)},
    ]
    for extra in ways:
        for annotation in (Personal[str], "DefinedLater"):
            cls = only(annotation, value=attrs.field(**extra))
            with pytest.raises(
                InvalidEvent, match=r"value is refused by its (validator|converter)"
            ) as caught:
                cls(aggregate_id=USER, value=SECRET)
            assert SECRET not in str(caught.value)
            assert caught.value.__suppress_context__


def test_a_repr_of_ones_own_does_not_show_a_personal_value() -> None:
    """``repr=`` of a field counts for other values; ``repr=False`` leaves a field out."""
    ways: list[tuple[Any, Any, Any, str]] = [
        (Contact, str, CONTACT, "value=<personal>"),
        (int, lambda _: "seven", 7, "value=seven"),
        (int, False, 7, "metadata={})"),
    ]
    for annotation, own, value, shown in ways:
        made = only(annotation, value=attrs.field(repr=own))(aggregate_id=USER, value=value)
        assert shown in repr(made)


def test_the_ad_hoc_event_shows_no_values() -> None:
    """Nobody knows which of its values are personal, so it shows their names."""
    made = BaseEvent("user.registered", USER, data={"email": SECRET, "plan": "free"})
    assert repr(made).endswith("type='user.registered', data=<email, plan>)")
    with pytest.raises(InvalidEvent) as caught:
        BaseEvent("user.registered", USER, data={"email": {SECRET}})
    assert SECRET not in str(caught.value)


def test_messages_and_letters_do_not_show_their_bodies() -> None:
    """An encoded event may hold personal data, so that a repr tells its size alone."""
    made = only(Personal[str])(aggregate_id=USER, value=SECRET)
    body = JsonSerializer().encode(made, topic="a.b.c", source="tests")
    message = Message(id="1", topic="a.b.c", key="", body=body)
    letter = DeadLetter("1", "a.b.c", "mail", None, "", "reason", (), body, dead_at=made.occurred_at)
    for shown in (repr(message), repr(letter), repr(Envelope("a.b.c", made, {}))):
        assert SECRET not in shown
    assert f"body=<{len(body)} bytes>" in repr(message)


# --- everywhere -------------------------------------------------------------------------------------------


@event
class EverythingHappened(Event[str]):
    lines: Sequence[Contact]
    prices: Mapping[str, float | int]
    tree: Person
    when: clock.datetime
    anything: Any
    address: Annotated[ipaddress.IPv4Address, JsonForm(str, write=str, read=ipaddress.IPv4Address)]


@pytest.mark.parametrize("memory", [{}, {"serialize": True}], ids=["objects", "bytes"])
@pytest.mark.parametrize("serializer", ["json", "msgspec"])
async def test_an_event_is_handled_as_it_was_made(memory: dict[str, Any], serializer: str) -> None:
    """With the class and, on a topic of any event, where bytes travel, without it."""
    made = EverythingHappened(
        aggregate_id='order "17"',
        lines=[CONTACT],
        prices={"a": 1, "b": 1.5},
        tree=Person(CONTACT, [Person(CONTACT)]),  # type: ignore[arg-type]
        when=clock.datetime(2024, 5, 1, tzinfo=Zone()),
        anything={"a": [1, {"b": None}]},
        address=ipaddress.IPv4Address("127.0.0.1"),
    )
    typed, untyped = Topic("test.thing.happened", EverythingHappened), Topic("test.any.happened", BaseEvent)
    with_class: list[Event[Any]] = []
    without: list[Event[Any]] = []
    config = {"adapter": "memory", "serializer": serializer, "memory": memory}
    async with open_bus({"bus": config}) as bus:
        bus.subscribe(typed, with_class.append, name="typed")
        bus.subscribe(untyped, without.append, name="untyped")
        await bus.publish(typed, made)
        body = JsonSerializer().encode(made, topic="test.any.happened", source="tests")
        await bus.publish(untyped, JsonSerializer().decode(body, event_class=BaseEvent))  # type: ignore[arg-type]
        await bus.drain()
    assert with_class == [made]
    [read] = without
    assert isinstance(read, BaseEvent)
    assert read.aggregate_id == 'order "17"'
    assert read.data["prices"] == {"a": 1, "b": 1.5}


def test_the_schema_of_an_event_describes_its_data() -> None:
    """JSON Schema, from the same shapes: nested classes once, personal data marked, rules in words."""
    text = {"type": "string"}
    assert schema_of(EverythingHappened) == {
        "type": "object",
        "properties": {
            "lines": {"type": "array", "items": {"$ref": "#/$defs/Contact"}},
            "prices": {
                "type": "object",
                "additionalProperties": {"anyOf": [{"type": "integer"}, {"type": "number"}]},
            },
            "tree": {"$ref": "#/$defs/Person"},
            "when": {"type": "string", "format": "date-time"},
            "anything": {},
            "address": text,
        },
        "required": ["lines", "prices", "tree", "when", "anything", "address"],
        "$defs": {
            "Contact": {
                "type": "object",
                "properties": {
                    "street": {**text, "x-personal": True},
                    "city": text,
                    "mails": {"type": "array", "items": {**text, "x-personal": True}},
                },
                "required": ["street", "city"],
            },
            "Person": {
                "type": "object",
                "properties": {
                    "contact": {"$ref": "#/$defs/Contact"},
                    "friends": {"type": "array", "items": {"$ref": "#/$defs/Person"}},
                },
                "required": ["contact"],
            },
        },
    }
    assert schema_of(with_ids(int)) == {"type": "object", "properties": {}}
    assert schema_of(BaseEvent) == {"type": "object"}


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (Short, {"type": "string", "description": "must be at most five characters"}),
        (UUID | None, {"anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}]}),
        (Literal["a", 1, None], {"enum": ["a", 1, None]}),
        (enum.Enum("Tier", {"FREE": "free"}), {"enum": ["free"]}),
        (AbstractSet[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (
            tuple[int, bool],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "boolean"}],
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (tuple[()], {"type": "array", "minItems": 0, "maxItems": 0}),
        (
            Mapping[int, bytes],
            {
                "type": "object",
                "propertyNames": {"pattern": "^(0|-?[1-9][0-9]*)$"},
                "additionalProperties": {"type": "string", "contentEncoding": "base64"},
            },
        ),
    ],
    ids=str,
)
def test_the_schema_of_each_type(annotation: Any, schema: dict[str, Any]) -> None:
    """Each shape has its schema."""
    assert schema_of(only(annotation))["properties"] == {"value": schema}


DefinedLater = Personal[str]
