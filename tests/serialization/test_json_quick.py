"""The serializer reads the usual document quickly, and any other thoroughly: both come to the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, NewType
from uuid import UUID

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_core import BaseEvent, Constraint, Event, FrozenMapping, JsonForm, event
from bus_core.errors import DeserializationError
from bus_core.serialization.cloudevents import JsonOptions, JsonSerializer

Score = NewType("Score", int)
Code = Annotated[str, Constraint("one letter", lambda text: len(text) == 1)]


@attrs.frozen
class Ink:
    """A class that counts how many values of it were read."""

    text: str
    made: ClassVar[int] = 0

    @classmethod
    def read(cls, text: str) -> Ink:
        cls.made += 1
        return cls(text)


Mark = Annotated[Ink, JsonForm(str, write=lambda mark: mark.text, read=Ink.read)]


@attrs.frozen
class Leaf:
    name: str
    weight: int = 1


@attrs.frozen
class Tree:
    mark: Mark
    inner: tuple[Tree, ...] = ()


@event
class ThingHappened(Event):
    name: str
    flag: bool
    count: int
    score: Score
    code: Code
    owner: UUID | None
    leaf: Leaf
    leaves: tuple[Leaf, ...]
    numbers: Sequence[int] | None
    ratio: float = 0.5
    labels: tuple[str, ...] = ()


@event
class TreePlanted(Event):
    tree: Tree


THING = ThingHappened(
    aggregate_id=UUID(int=1),
    metadata={"trace": "7"},
    name="x",
    flag=True,
    count=3,
    score=Score(4),
    code="a",
    owner=UUID(int=2),
    leaf=Leaf("oak"),
    leaves=(Leaf("elm", 2), Leaf("ash")),
    numbers=[1, 2],
)


def written(made: Event[Any], serializer: JsonSerializer) -> dict[str, Any]:
    """The document of an event."""
    document: dict[str, Any] = json.loads(serializer.encode(made, topic="a.b.c", source="tests"))
    return document


def outcome(document: dict[str, Any], cls: type[Event[Any]] = ThingHappened) -> tuple[str, Any]:
    """The result of reading a document."""
    try:
        read: Any = JsonSerializer().decode(json.dumps(document).encode(), event_class=cls)
    except DeserializationError as error:
        return "error", str(error)
    if document.get("time") is None:  # then it is the present
        read = attrs.evolve(read, occurred_at=THING.occurred_at)
    return "event", read


def thoroughly(document: dict[str, Any]) -> dict[str, Any]:
    """A document that means the same, but is not the usual one: it is read thoroughly."""
    return document | {"data_base64": None}


DOCUMENT = written(THING, JsonSerializer())
PATHS: list[tuple[str | int, ...]] = [
    *((name,) for name in DOCUMENT),
    *(("data", name) for name in DOCUMENT["data"]),
    ("data", "leaf", "name"),
    ("data", "leaf", "weight"),
    ("data", "leaves", 1),
    ("data", "leaves", 0, "weight"),
    ("data", "numbers", 1),
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "1.0", "thing.happened", "x", str(UUID(int=5)), "2024-05-01T12:00:00Z", "{}"]),
    st.lists(st.integers() | st.text(max_size=2), max_size=2),
    st.dictionaries(st.sampled_from(["name", "weight", "other"]), st.integers() | st.text(max_size=2)),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(PATHS), VALUES | st.just("left out")), min_size=1, max_size=3))
def test_both_ways_come_to_the_same(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    """Both decoders return the same event or the same error for any changed document."""
    document = json.loads(json.dumps(DOCUMENT))
    for (*way, last), value in changes:
        place = document
        try:
            for step in way:
                place = place[step]
            if value == "left out":
                del place[last]
            else:
                place[last] = value
        except (KeyError, TypeError, IndexError):
            continue  # an earlier change took it away
    assert outcome(document) == outcome(thoroughly(document))


def test_the_usual_document_is_read() -> None:
    """Without any change both ways give the event that was written."""
    assert outcome(DOCUMENT) == outcome(thoroughly(DOCUMENT)) == ("event", THING)


def forest(levels: int) -> dict[str, Any]:
    """A document with so many trees, one inside of the other."""
    tree = Tree(Ink("0"))
    for level in range(1, levels):
        tree = Tree(Ink(str(level)), (tree,))
    Ink.made = 0
    return written(TreePlanted(aggregate_id=UUID(int=1), tree=tree), DEEP)


DEEP = JsonSerializer(JsonOptions(max_depth=200))


def read_forest(document: dict[str, Any]) -> Any:
    return DEEP.decode(json.dumps(document).encode(), event_class=TreePlanted)


def test_the_usual_document_is_read_once() -> None:
    """No value of it is looked at a second time, also where classes contain themselves."""
    tree = read_forest(forest(40)).tree
    assert Ink.made == 40
    for level in reversed(range(1, 40)):
        assert tree.mark.text == str(level)
        (tree,) = tree.inner


def test_a_fault_deep_inside_is_looked_for_once() -> None:
    """It takes twice the time of a good document at most, not twice the time for each level."""
    document = forest(40)
    deepest = document["data"]["tree"]
    while deepest["inner"]:
        (deepest,) = deepest["inner"]
    deepest["mark"] = 7
    with pytest.raises(DeserializationError, match=r"\.mark must be a str"):
        read_forest(document)
    assert 39 <= Ink.made <= 2 * 40


def test_metadata_that_was_read_refuses_changes() -> None:
    """As that of an event that was made."""
    read = outcome(DOCUMENT)[1]
    with pytest.raises(TypeError, match="immutable"):
        read.metadata["trace"] = "8"


@pytest.mark.parametrize("padding", ["", "x" * 2000])
@pytest.mark.parametrize("text", ["%d", " %d", "%d ", "\n%d\n"])
def test_spaces_around_a_document_are_allowed(text: str, padding: str) -> None:
    """JSON allows them; also in a document that is shorter than the longest number."""
    document = json.dumps(DOCUMENT | {"padding": padding})
    body = text.replace("%d", document).encode()
    assert JsonSerializer().decode(body, event_class=ThingHappened) == THING


@pytest.mark.parametrize("more", ["x", "{}", ",", '"'])
def test_nothing_else_may_follow_a_document(more: str) -> None:
    """Trailing bytes make it no document, however few."""
    body = (json.dumps(DOCUMENT) + more).encode()
    with pytest.raises(DeserializationError, match="Extra data"):
        JsonSerializer().decode(body, event_class=ThingHappened)


def test_a_time_of_another_zone_is_read_in_utc() -> None:
    """An event that was read holds its time as one that was made."""
    document = DOCUMENT | {"time": "2024-05-01T14:00:00+02:00"}
    read = outcome(document)[1]
    assert read.occurred_at == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert read.occurred_at.tzinfo is UTC
    assert outcome(thoroughly(document)) == ("event", read)


def test_what_is_read_without_a_class_is_frozen() -> None:
    """The data of a ``BaseEvent`` refuses changes at any depth, as that of one that was made."""
    data = {"a": [1, {"b": [None, "x"]}], "c": {"d": 0.5}}
    made = BaseEvent("thing.happened", UUID(int=1), data=data)
    document = written(made, JsonSerializer())
    read = outcome(document, BaseEvent)[1]
    assert read == made == outcome(thoroughly(document), BaseEvent)[1]
    assert type(read.data) is type(read.data["a"][1]) is FrozenMapping
    assert type(read.data["a"]) is type(read.data["a"][1]["b"]) is tuple


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "a b"},
        {"type": ""},
        {"type": 7},
        {"data": []},
        {"data": None},
        {"subject": ""},
        {"subject": 7},
    ],
    ids=str,
)
def test_both_ways_come_to_the_same_without_a_class(changes: dict[str, Any]) -> None:
    """Both readers report a fault in the same words."""
    document = DOCUMENT | changes
    assert outcome(document, BaseEvent) == outcome(thoroughly(document), BaseEvent)


@event
class Collecting(Event):
    """A field whose factory gives what an event does not hold."""

    names: Sequence[str] = attrs.field(factory=lambda: ["a"])


def test_the_default_of_a_field_that_was_left_out_is_in_its_one_form() -> None:
    """A list that a factory makes arrives as a tuple."""
    document = written(Collecting(aggregate_id=UUID(int=1)), JsonSerializer())
    del document["data"]["names"]
    assert outcome(document, Collecting)[1].names == ("a",)


# --- where the two ways might part ------------------------------------------------------------------------


def read_both(serializer: JsonSerializer, document: dict[str, Any], cls: type[Event]) -> tuple[Any, Any]:
    """The results of the fast and the thorough reader for the usual document."""

    def read(given: dict[str, Any]) -> Any:
        try:
            return serializer.decode(json.dumps(given).encode(), event_class=cls)
        except DeserializationError as error:
            return str(error)

    return read(document), read(thoroughly(document))


def test_an_optional_form_gets_its_kinds_only() -> None:
    """A form that takes more than its type has in JSON is not asked, however the rest looks."""

    @event
    class Priced(Event):
        price: Annotated[complex, JsonForm(str, write=str, read=complex)] | None

    document = written(Priced(aggregate_id=UUID(int=1), price=1j), JsonSerializer())
    assert read_both(JsonSerializer(), document, Priced)[0].price == 1j
    document["data"]["price"] = 1.5
    quickly, other = read_both(JsonSerializer(), document, Priced)
    assert quickly == other
    assert "price must be null or a complex" in quickly


def test_an_event_need_not_be_true() -> None:
    """Nobody asks an event whether it is true."""

    @event
    class Empty(Event):
        def __bool__(self) -> bool:
            raise TypeError

    document = written(Empty(aggregate_id=UUID(int=1)), JsonSerializer())
    quickly, other = read_both(JsonSerializer(), document, Empty)
    assert quickly == other
    assert type(quickly) is Empty


@attrs.frozen
class Optionals:
    plain: int = 3
    made: Sequence[int] = attrs.field(factory=lambda: [1])
    of_others: int = attrs.field(default=attrs.Factory(lambda made: made.plain + 1, takes_self=True))


@dataclasses.dataclass(frozen=True)
class OptionalsToo:
    plain: int = 3
    made: Sequence[int] = dataclasses.field(default_factory=lambda: [1])


@pytest.mark.parametrize("cls", [Optionals, OptionalsToo])
@pytest.mark.parametrize("left_out", [["plain"], ["made"], ["of_others"], ["plain", "made", "of_others"]])
def test_fields_that_are_left_out(cls: Any, left_out: list[str]) -> None:
    """They get their defaults, each value one of its own, as when the constructor is called without them."""
    kept: dict[str, Any] = {"plain": 7, "made": (7,), "of_others": 7}
    if cls is OptionalsToo:
        del kept["of_others"]
    given = {name: value for name, value in kept.items() if name not in left_out}
    Held: Any = event(type("Held", (Event,), {"__annotations__": {"value": cls}, "__module__": __name__}))
    document = written(Held(aggregate_id=UUID(int=1), value=cls()), JsonSerializer())
    document["data"]["value"] = given
    serializer = JsonSerializer()
    quickly, other = read_both(serializer, document, Held)
    assert quickly == other
    assert quickly.value == cls(**{**given, "made": given.get("made", (1,))})
    if "made" in left_out:
        assert quickly.value.made == (1,)


@attrs.frozen
class Doubled:
    plain: int
    twice: int = 0

    def __init__(self, plain: int, twice: int | None = None) -> None:
        self.__attrs_init__(plain, 2 * plain if twice is None else twice)  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class DoubledToo:
    plain: int
    twice: int = 0

    def __init__(self, plain: int, twice: int | None = None) -> None:
        object.__setattr__(self, "plain", plain)
        object.__setattr__(self, "twice", 2 * plain if twice is None else twice)


@pytest.mark.parametrize("cls", [Doubled, DoubledToo])
def test_constructors_with_defaults_of_their_own(cls: Any) -> None:
    """An argument that is left out is left to the constructor, where somebody wrote it."""
    Held: Any = event(type("Held", (Event,), {"__annotations__": {"value": cls}, "__module__": __name__}))
    document = written(Held(aggregate_id=UUID(int=1), value=cls(3)), JsonSerializer())
    assert document["data"] == {"value": {"plain": 3, "twice": 6}}
    del document["data"]["value"]["twice"]
    for read in read_both(JsonSerializer(), document, Held):
        assert (read.value.plain, read.value.twice) == (3, 6)


def test_names_that_are_no_identifiers() -> None:
    """A field may have a name that Python itself uses."""
    plain: Any = {"eq": False, "order": False, "unsafe_hash": False, "repr": False}
    fields = {"from": attrs.field(type=str, alias="from_")}
    Route: Any = attrs.make_class("Route", fields, frozen=True, **plain)
    Routed: Any = event(
        type("Routed", (Event,), {"__annotations__": {"route": Route}, "__module__": __name__})
    )
    document = written(Routed(aggregate_id=UUID(int=1), route=Route(from_="x")), JsonSerializer())
    assert document["data"] == {"route": {"from_": "x"}}
    for read in read_both(JsonSerializer(), document, Routed):
        assert getattr(read.route, "from") == "x"
