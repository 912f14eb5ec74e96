"""The serializer reads the usual document quickly, and any other thoroughly: both come to the same."""

from __future__ import annotations

import json
from typing import Annotated, Any, NewType, cast
from uuid import UUID

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_core import Constraint, Event, event
from bus_core.errors import DeserializationError
from bus_core.serialization import JsonOptions, JsonSerializer

Score = NewType("Score", int)
Code = Annotated[str, Constraint("one letter", lambda text: len(text) == 1)]


class Mark:
    """A type that the serializer does not know."""

    def __init__(self, text: str) -> None:
        self.text = text


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
    numbers: list[int] | None
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


def written(made: Event, serializer: JsonSerializer) -> dict[str, Any]:
    """The document of an event."""
    document: dict[str, Any] = json.loads(serializer.encode(made, topic="a.b.c", source="tests"))
    return document


def outcome(document: dict[str, Any], cls: type[Event] = ThingHappened) -> tuple[str, Any]:
    """What reading a document comes to."""
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
    """Whatever is changed in a document: the same event, or the same sentence about what is wrong."""
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


class Reader:
    """A serializer that knows ``Mark``, and counts how many it has read."""

    def __init__(self) -> None:
        self.read = 0
        self.serializer = JsonSerializer(JsonOptions(max_depth=200))
        self.serializer.converter.register_structure_hook(Mark, self._load)
        self.serializer.converter.register_unstructure_hook(Mark, lambda mark: mark.text)

    def _load(self, value: Any, _hint: Any) -> Mark:
        self.read += 1
        if not isinstance(value, str):
            raise TypeError
        return Mark(value)

    def document(self, levels: int) -> dict[str, Any]:
        """A document with so many trees, one inside of the other."""
        tree = Tree(Mark("0"))
        for level in range(1, levels):
            tree = Tree(Mark(str(level)), (tree,))
        return written(TreePlanted(aggregate_id=UUID(int=1), tree=tree), self.serializer)

    def decode(self, document: dict[str, Any]) -> Any:
        return self.serializer.decode(json.dumps(document).encode(), event_class=TreePlanted)


def test_the_usual_document_is_read_once() -> None:
    """No value of it is looked at a second time, also where classes contain themselves."""
    reader = Reader()
    tree = reader.decode(reader.document(40)).tree
    assert reader.read == 40
    for level in reversed(range(1, 40)):
        assert tree.mark.text == str(level)
        (tree,) = tree.inner


def test_a_fault_deep_inside_is_looked_for_once() -> None:
    """It takes twice the time of a good document at most, not twice the time for each level."""
    reader = Reader()
    document = reader.document(40)
    deepest = document["data"]["tree"]
    while deepest["inner"]:
        (deepest,) = deepest["inner"]
    deepest["mark"] = 7
    with pytest.raises(DeserializationError, match=r"\.mark must be a Mark"):
        reader.decode(document)
    assert reader.read <= 2 * 40


@pytest.mark.parametrize("kind", [int, str, Leaf, Score, Code])
def test_hooks_of_the_application_are_asked(kind: Any) -> None:
    """A hook that the application registers for a type counts, however usual the type is."""
    asked: list[Any] = []
    serializer = JsonSerializer()

    def load(value: Any, _hint: Any) -> Any:
        asked.append(value)
        return {int: 9, str: "b", Leaf: Leaf("b"), Score: 9, Code: "b"}[kind]

    if kind is Code:
        serializer.converter.register_structure_hook_func(lambda hint: hint == Code, load)
    else:
        serializer.converter.register_structure_hook(kind, load)
    body = serializer.encode(THING, topic="a.b.c", source="tests")
    read = serializer.decode(body, event_class=ThingHappened)
    changed: dict[Any, dict[str, Any]] = {
        int: {
            "count": 9,
            "score": 9,
            "numbers": [9, 9],
            "leaf": Leaf("oak", 9),
            "leaves": (Leaf("elm", 9), Leaf("ash", 9)),
        },
        str: {
            "name": "b",
            "code": "b",
            "leaf": Leaf("b"),
            "leaves": (Leaf("b", 2), Leaf("b")),
        },
        Leaf: {"leaf": Leaf("b"), "leaves": (Leaf("b"), Leaf("b"))},
        Score: {"score": 9},
        Code: {"code": "b"},
    }
    assert read == attrs.evolve(cast(Any, THING), **changed[kind])
    assert asked


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
    """What follows makes it no document, however short it is."""
    body = (json.dumps(DOCUMENT) + more).encode()
    with pytest.raises(DeserializationError, match="Extra data"):
        JsonSerializer().decode(body, event_class=ThingHappened)
