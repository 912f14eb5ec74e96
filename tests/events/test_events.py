"""Events: immutable values whose fields are checked when they are made."""

from __future__ import annotations

import copy
import enum
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType
from uuid import RFC_4122, UUID

import attrs
import pytest

from bus_core import BaseEvent, Constraint, Event, Personal, event
from bus_core.errors import InvalidEvent
from bus_core.events.base import event_type_of, event_version_of, model_of
from bus_core.events.primitives import FrozenMapping, uuid7
from bus_core.events.shapes import is_personal
from support.scripts import run_script

CountryCode = Annotated[
    str, Constraint("two capital letters", lambda value: len(value) == 2 and value.isupper())
]
UserId = NewType("UserId", UUID)
USER = UUID(int=10)


class Tier(enum.Enum):
    FREE = "free"
    PAID = "paid"


@event
class UserRegistered(Event):
    """A person created an account."""

    email: Personal[str]
    display_name: str = ""


@event
class EverythingHappened(Event):
    text: str = ""
    flag: bool = False
    whole: int = 0
    number: float = 0.0
    amount: Decimal = Decimal()
    at: datetime = datetime(2024, 5, 1, tzinfo=UTC)
    day: date = date(2024, 5, 1)
    tier: Tier = Tier.FREE
    maybe: int | None = None
    choice: Literal["a", 1] = "a"
    country: CountryCode = "FR"
    user: UserId = UserId(USER)
    tags: tuple[str, ...] = ()
    pair: tuple[int, str] = (1, "a")
    ids: frozenset[UUID] = frozenset()
    listed: Sequence[int] = ()
    counts: Mapping[str, int] = attrs.field(factory=FrozenMapping)
    anything: Any = None
    hidden: Personal[Mapping[str, int] | None] = None


@event
class ForwardReferring(Event):
    later: DefinedLater
    more: tuple[DefinedLater, ...] = ()


@attrs.frozen
class DefinedLater:
    number: int


def only(annotation: Any, **body: Any) -> Any:
    """A class of events with one field of a type."""
    return event(
        type("Only", (Event,), {"__annotations__": {"value": annotation}, "__module__": __name__} | body)
    )


def made(**fields: Any) -> UserRegistered:
    given: dict[str, Any] = {"aggregate_id": USER, "email": "ada@example.org"} | fields
    return UserRegistered(**given)


def faults_of(make: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(InvalidEvent) as caught:
        make()
    return caught.value.faults


# --- what an event has ------------------------------------------------------------------------------------


def test_an_event_fills_its_base_fields() -> None:
    """An event gets an id, the current time in UTC and empty metadata unless they are given."""
    before = datetime.now(UTC)
    first, second = made(), made()
    assert before <= first.occurred_at <= datetime.now(UTC)
    assert first.occurred_at.tzinfo is UTC
    assert first.event_id != second.event_id
    assert first.event_id.version == 7
    assert first.metadata == {}


def test_fields_are_given_by_name_only() -> None:
    """A positional argument, an unknown one, and a missing one are errors of the call."""
    cls: Any = UserRegistered
    for arguments, fields in (((USER,), {"email": "a"}), ((), {"aggregate_id": USER}), ((), {"emial": "a"})):
        with pytest.raises(TypeError):
            cls(*arguments, **fields)


@pytest.mark.parametrize(
    ("class_name", "expected"),
    [
        ("UserRegistered", "user.registered"),
        ("KYCPassed", "kyc.passed"),
        ("UserEmailVerified", "user.email.verified"),
        ("DealWonV2", "deal.won.v2"),
        ("UserKYC", "user.kyc"),
        ("Ping", "ping"),
        ("lower", "lower"),
    ],
)
def test_the_type_comes_from_the_class_name(class_name: str, expected: str) -> None:
    """Each word of the class name is a word of the type."""
    cls: type[Event] = event(type(class_name, (Event,), {}))
    assert event_type_of(cls) == expected
    assert cls(aggregate_id=USER).type == expected


def test_type_and_version_can_be_given() -> None:
    """The decorator's arguments belong to the class, and a subclass has its own."""

    @event(type="crm.user-registered", version=3)
    class Named(Event):
        pass

    @event
    class Child(Named):
        pass

    assert (event_type_of(Named), event_version_of(Named)) == ("crm.user-registered", 3)
    assert (event_type_of(Child), event_version_of(Child)) == ("child", 1)
    assert (event_type_of(UserRegistered), event_version_of(UserRegistered)) == ("user.registered", 1)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1"])
def test_a_bad_version_is_refused(version: Any) -> None:
    """Versions count from 1."""
    with pytest.raises(ValueError, match="the version of an event class is an int from 1"):
        event(version=version)


@pytest.mark.parametrize("cls", [dict, "text", None.__class__])
def test_only_classes_of_events_can_be_decorated(cls: Any) -> None:
    """The decorator says which base class is missing."""
    with pytest.raises(TypeError, match=r"@event is for classes that derive from bus_core\.Event"):
        event(cls)


# --- values -----------------------------------------------------------------------------------------------


def test_an_event_refuses_changes() -> None:
    """Fields cannot be assigned or added, and metadata cannot be changed in place."""
    one = made(metadata={"trace": "1"})
    for name in ("email", "aggregate_id", "unknown", "type"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(one, name, "x")
    metadata: Any = one.metadata
    changes: list[Callable[[], object]] = [
        lambda: metadata.__setitem__("a", "b"),
        lambda: metadata.__delitem__("trace"),
        lambda: metadata.clear(),
        lambda: metadata.update(a="b"),
        lambda: metadata.pop("trace"),
        lambda: metadata.popitem(),
        lambda: metadata.setdefault("a", "b"),
        lambda: metadata.__ior__({"a": "b"}),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="immutable"):
            change()
    assert one.metadata == {"trace": "1"}


def test_a_field_cannot_be_deleted() -> None:
    """Deleting is a change too."""
    one = made()
    with pytest.raises(AttributeError):
        delattr(one, "email")
    assert one.email == "ada@example.org"


def test_metadata_is_a_copy() -> None:
    """Changing the dict that was given does not change the event."""
    given = {"trace": "1"}
    one = made(metadata=given)
    given["trace"] = "2"
    assert one.metadata == {"trace": "1"}


def test_events_compare_by_value_and_hash_by_id() -> None:
    """Equal fields of one class make equal events; a field that cannot be hashed does not matter."""
    one = made()
    same = made(event_id=one.event_id, occurred_at=one.occurred_at)
    assert one == same
    assert hash(one) == hash(same) == hash(one.event_id)
    assert one != made()
    assert one != made(event_id=one.event_id, occurred_at=one.occurred_at, email="b")
    assert len({one, same, made()}) == 2
    assert hash(EverythingHappened(aggregate_id=USER, anything=[{}]))

    @event(type="user.registered")
    class Twin(Event):
        email: str
        display_name: str = ""

    twin: Event = Twin(aggregate_id=USER, event_id=one.event_id, occurred_at=one.occurred_at, email=one.email)
    assert one != twin


CLONES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle 2": lambda one: pickle.loads(pickle.dumps(one, 2)),
    "pickle 5": lambda one: pickle.loads(pickle.dumps(one, 5)),
}


@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES)
@pytest.mark.parametrize(
    "one",
    [
        UserRegistered(aggregate_id=USER, email="a", metadata={"x": "y"}),
        BaseEvent("a.b", USER, data={"x": [1, {"y": None}]}, metadata={"x": "y"}),
    ],
    ids=["typed", "untyped"],
)
def test_a_copy_is_equal_and_still_immutable(clone: Callable[[Any], Any], one: Any) -> None:
    """Copies and pickles equal the original and refuse changes like it."""
    other = clone(one)
    assert other == one
    assert type(other) is type(one)
    assert type(other.metadata) is FrozenMapping
    with pytest.raises(AttributeError):
        other.event_id = None


def test_errors_of_events_can_be_pickled() -> None:
    """An error that crosses a process keeps its faults."""
    error = InvalidEvent("A", ["x must be y"])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.faults) == (str(error), error.faults)


# --- checks -----------------------------------------------------------------------------------------------


def test_an_aware_time_is_brought_to_utc() -> None:
    """The instant counts: another zone's time becomes the same time in UTC."""
    local = datetime(2024, 5, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    one = made(occurred_at=local)
    assert one.occurred_at == local
    assert one.occurred_at.tzinfo is UTC
    edge = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert made(occurred_at=edge).occurred_at == edge


def test_a_naive_time_is_refused() -> None:
    """A time without a zone is refused with the way to make a good one."""
    (fault,) = faults_of(lambda: made(occurred_at=datetime(2024, 5, 1)))
    assert fault.startswith(
        "occurred_at must be an aware datetime, such as datetime.now(UTC); this one is naive"
    )


def test_all_wrong_values_are_reported_together() -> None:
    """One error lists every field with what it must be and what it got."""
    faults = faults_of(
        lambda: UserRegistered(
            aggregate_id="7",  # type: ignore[arg-type]
            event_id=None,  # type: ignore[arg-type]
            metadata={"a": 1},  # type: ignore[dict-item]
            email="a",
            display_name=b"x",  # type: ignore[arg-type]
        )
    )
    assert faults == (
        "aggregate_id must be a UUID, got '7'",
        "event_id must be a UUID, got None",
        "metadata[...] must be a str, got {'a': 1}",
        "display_name must be a str, got b'x'",
    )


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("text", 1, "a str"),
        ("flag", 1, "a bool"),
        ("whole", True, "an int"),
        ("whole", 1.0, "an int"),
        ("number", "1", "a number"),
        ("number", True, "a number"),
        ("number", float("nan"), "a finite number (JSON has no NaN or infinity)"),
        ("amount", 1, "a Decimal"),
        ("amount", Decimal("Infinity"), "a finite Decimal"),
        ("at", "2024-05-01", "a datetime"),
        ("at", datetime(2024, 5, 1), "an aware datetime"),
        ("day", datetime(2024, 5, 1, tzinfo=UTC), "a date"),
        ("tier", "free", "one of Tier.FREE, Tier.PAID"),
        ("maybe", "1", "an int or None"),
        ("choice", True, "one of 'a', 1"),
        ("country", "fr", "two capital letters"),
        ("country", 7, "a str"),
        ("user", "7", "a UUID"),
        ("tags", "abc", "a tuple"),
        ("tags[1]", ("a", 1), "a str"),
        ("pair", (1,), "a tuple of 2"),
        ("pair[1]", (1, 2), "a str"),
        ("ids[...]", frozenset("a"), "a UUID"),
        ("ids", [USER], "a frozenset"),
        ("listed", "12", "a Sequence"),
        ("counts", [("a", 1)], "a Mapping"),
        ("counts[...]", {"a": "1"}, "an int"),
        ("counts (a key of it)", {1: 1}, "a str"),
        ("text", "\ud800", "a text without lone surrogates"),
        ("whole", "1", "an int"),
        ("number", 2**53 + 1, "a number that a float can hold exactly"),
        ("number", 10**400, "a number in the range of a float"),
        ("amount", Decimal("1E+7000"), "a finite Decimal with an exponent of at most 6144"),
        ("at", datetime.min.replace(tzinfo=timezone(timedelta(seconds=1))), "a time that exists in UTC"),
        ("anything", object(), "JSON values only"),
        ("anything[1][...]", [1, {"a": {1}}], "JSON values only"),
        ("anything[...]", {1: 1}, "under a key that is a text"),
        ("anything", float("inf"), "a finite number"),
        ("anything[...]", {"a": "\ud800"}, "a text without lone surrogates"),
    ],
)
def test_a_wrong_value_is_refused(field: str, value: Any, wanted: str) -> None:
    """Every kind of field type says what a value must be."""
    name = re.split(r"\W", field)[0]
    (fault,) = faults_of(lambda: EverythingHappened(aggregate_id=USER, **{name: value}))
    assert fault.startswith(f"{field} must be {wanted}")


class Shameful:
    def __repr__(self) -> str:
        raise OSError("no")


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = None
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "value",
    [nested(30_000, lambda inner: [inner]), nested(30_000, lambda inner: {"a": inner}), Shameful()],
    ids=["lists", "mappings", "a hostile repr"],
)
def test_a_wrong_value_without_a_repr_is_refused(value: Any) -> None:
    """A value that Python cannot show is refused like any other, with its class in place of its repr."""
    (fault,) = faults_of(lambda: EverythingHappened(aggregate_id=USER, anything=value))
    assert fault.endswith(f", got a {type(value).__name__} that cannot be shown")
    (fault,) = faults_of(lambda: EverythingHappened(aggregate_id=USER, text=value))
    assert fault == f"text must be a str, got a {type(value).__name__} that cannot be shown"
    faults = faults_of(lambda: BaseEvent("a.b", USER, data={"tree": value}))
    assert len(faults) == 1


def test_good_values_of_subclasses_are_taken() -> None:
    """A value of a subclass is a value of the type, and an int is a number."""

    class Text(str):
        __slots__ = ()

    one = EverythingHappened(aggregate_id=USER, text=Text("x"), number=1, listed=[1], counts={"a": 1})
    assert (one.text, one.number) == ("x", 1)


def test_personal_values_are_never_shown() -> None:
    """Neither the repr of an event nor an error about it shows what is marked as personal."""
    one = made(email="secret@example.org", display_name="shown")
    assert "secret" not in repr(one)
    assert "email=<personal>" in repr(one)
    assert "'shown'" in repr(one)
    wrong: Any = {"secret": "x"}
    assert faults_of(lambda: made(email=["secret"])) == (
        "email must be a str, got a list (personal value not shown)",
    )
    (fault,) = faults_of(lambda: EverythingHappened(aggregate_id=USER, hidden=wrong))
    assert "secret" not in fault


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Personal[str], True),
        (Personal[str] | None, True),
        (tuple[Personal[str], ...], True),
        (Mapping[str, Personal[int]], True),
        (str, False),
        (CountryCode, False),
    ],
)
def test_personal_marks_are_found_inside_types(annotation: Any, expected: bool) -> None:
    """A mark counts wherever it stands in the annotation."""
    cls = only(annotation)
    assert is_personal(model_of(cls).own.fields[0].shape) is expected


# --- annotations as text ----------------------------------------------------------------------------------


def test_annotations_may_name_what_is_defined_later() -> None:
    """A class that is defined further down is found when the first event is made, and then checked."""
    assert ForwardReferring(aggregate_id=USER, later=DefinedLater(1)).later.number == 1
    (fault,) = faults_of(lambda: ForwardReferring(aggregate_id=USER, later=7))  # type: ignore[arg-type]
    assert fault == "later must be a DefinedLater, got 7"


def test_annotations_may_name_what_is_local() -> None:
    """Classes inside a function are found by the decorator, also those marked as personal."""

    class Local(enum.Enum):
        ONE = 1

    Name = Personal[str]

    @event
    class Happened(Event):
        local: Local
        name: Name

    one = Happened(aggregate_id=USER, local=Local.ONE, name="secret")
    assert "secret" not in repr(one)
    assert faults_of(lambda: Happened(aggregate_id=USER, local=1, name="")) == (  # type: ignore[arg-type]
        "local must be one of Local.ONE, got 1",
    )


def test_an_annotation_that_names_nothing_is_an_error() -> None:
    """A misspelt annotation is reported by class and name at the first use."""
    cls: Any = event(type("Misspelt", (Event,), {"__annotations__": {"x": "Strng"}, "__module__": __name__}))
    with pytest.raises(TypeError, match="Misspelt: an annotation names 'Strng', which is not defined"):
        cls(aggregate_id=USER, x=1)


# --- the ad-hoc event -------------------------------------------------------------------------------------


def test_the_ad_hoc_event_carries_frozen_data() -> None:
    """Type and aggregate are positional, and the data is a deep, immutable copy."""
    given: dict[str, Any] = {"steps": [1, {"ok": [True]}]}
    one = BaseEvent("plan.changed", USER, data=given)
    given["steps"].append(2)
    assert (one.type, one.aggregate_id) == ("plan.changed", USER)
    assert one.data == {"steps": (1, {"ok": (True,)})}
    with pytest.raises(TypeError, match="immutable"):
        one.data["steps"][1]["ok"] = 1
    assert BaseEvent("a", USER).data == {}


def test_the_ad_hoc_event_is_checked_as_itself() -> None:
    """An event of the bare base class that was made before it leaves its data to be frozen all the same."""
    printed, _ = run_script("""
        Event(aggregate_id=uuid4())
        data = BaseEvent("plan.changed", uuid4(), data={"steps": [1]}).data
        print(json.dumps([type(data).__name__, type(data["steps"]).__name__]))
    """)
    assert printed == ["FrozenMapping", "tuple"]


@pytest.mark.parametrize("name", ["", "a b", "a\n", ".a", "x" * 256, 7])
def test_the_ad_hoc_event_needs_a_type_name(name: Any) -> None:
    """A type is a word of few characters, and the error says so."""
    (fault,) = faults_of(lambda: BaseEvent(name, USER))
    assert fault.startswith("type must be a")


# --- ids --------------------------------------------------------------------------------------------------


def test_ids_are_version_7_and_sort_by_time() -> None:
    """Ids carry the version, the variant and the milliseconds of RFC 9562, and do not go back in time."""
    before = int(datetime.now(UTC).timestamp() * 1000)
    ids = [uuid7() for _ in range(1000)]
    after = int(datetime.now(UTC).timestamp() * 1000)
    assert {(made_id.version, made_id.variant) for made_id in ids} == {(7, RFC_4122)}
    assert all(before <= made_id.int >> 80 <= after for made_id in ids)
    assert [made_id.int >> 64 for made_id in ids] == sorted(made_id.int >> 64 for made_id in ids)
    assert UUID(str(ids[0])) == ids[0]
    assert pickle.loads(pickle.dumps(ids[0])) == ids[0]
    assert repr(ids[0]) == repr(UUID(int=ids[0].int))


def test_ids_of_many_threads_differ() -> None:
    """Threads that make ids at the same time never make the same one."""
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(lambda _: [uuid7() for _ in range(2000)], range(8)))
    assert len({made_id for batch in batches for made_id in batch}) == 16_000


def test_a_rule_made_of_a_regular_expression() -> None:
    """``Constraint.matching`` takes whole texts that match, up to a length, with the flags of ``re``."""
    rule = Constraint.matching("small letters", "[a-z]+", longest=3, flags=re.IGNORECASE)
    assert rule.description == "small letters"
    accepted = [text for text in ("a", "aBc", "abcd", "a1", "a\n", "") if rule.check(text)]
    assert accepted == ["a", "aBc"]
    assert Constraint.matching("digits", "[0-9]+").check("0" * 1000)
