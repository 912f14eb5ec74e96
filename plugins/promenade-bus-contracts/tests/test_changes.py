"""Every kind of change, planted in a copy of a catalogue: the breaking ones are named, the others pass."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any, Literal
from uuid import UUID

import pytest

from bus_core import Event, event
from bus_core.serialization import schema_of
from promenade_bus_contracts.changes import Change, changes_of
from promenade_bus_contracts.lock_files import as_data
from promenade_bus_contracts.published import Contract, Subscriber, contracts_of
from promenade_bus_contracts.schemas import describe

pytestmark = pytest.mark.once

CATALOGUE = textwrap.dedent(
    """
    from collections.abc import Mapping
    from enum import Enum
    from typing import Annotated
    from uuid import UUID
    import attrs
    from bus_core import Constraint, Deprecated, Event, Personal, Topic, TopicCatalogue, event, upcaster

    class Method(Enum):
        PASSWORD = "password"
        LINK = "link"

    class Plan(Enum):
        FREE = "free"
        OTHER = "other"
        @classmethod
        def _missing_(cls, value):
            return cls.OTHER

    Short = Annotated[str, Constraint("at most 20 characters", lambda text: len(text) <= 20)]

    @attrs.frozen
    class Address:
        city: str
        lines: tuple[str, ...] = ()

    @event
    class UserRegistered(Event):
        email: Personal[str]
        name: str = ""
        nick: Short = ""
        method: Method = Method.PASSWORD
        plan: Plan = Plan.FREE
        address: Personal[Address] | None = None
        scores: Mapping[str, int] = attrs.field(factory=dict)
        place: tuple[float, float] = (0.0, 0.0)
        referrer: UUID | None = None

    @event
    class UserDeleted(Event):
        reason: str = ""

    TOPICS = [Topic("identity.user.registered", UserRegistered), Topic("identity.user.deleted", UserDeleted)]
    CATALOGUE = TopicCatalogue("identity", TOPICS)
    """
)

WELCOME = Subscriber("welcome-mail", "crm", "identity.user.registered", "crm.mail.send")
AUDIT = Subscriber("audit", "audit", "identity.#", "crm.audit.note")
OTHER = Subscriber("other", "crm", "billing.#", "crm.billing.bill")
SUBSCRIBERS = (WELCOME, AUDIT, OTHER)


def contract_of(source: str) -> Contract:
    namespace = vars(sys.modules.get("copied_catalogue", ModuleType("copied_catalogue")))
    exec(compile(source, "copied_catalogue", "exec"), namespace)
    return contracts_of([(namespace["CATALOGUE"], "promenade-context-identity 1.2")])["identity"]


LOCK = as_data(contract_of(CATALOGUE))


def edited(*edits: tuple[str, str]) -> str:
    source = CATALOGUE
    for before, after in edits:
        assert before in source, before
        source = source.replace(before, after, 1)
    return source


def changes(*edits: tuple[str, str], subscribers: tuple[Subscriber, ...] = SUBSCRIBERS) -> list[Change]:
    return changes_of(LOCK, contract_of(edited(*edits)), "identity", subscribers)


@dataclass(frozen=True)
class Planted:
    """A change of the source, and what the check says of it."""

    edit: tuple[str, str]
    kind: str
    text: str
    field: str | None = None


def named(cases: list[Planted]) -> list[Any]:
    return [pytest.param(case, id=f"{case.kind}-{number}") for number, case in enumerate(cases)]


REGISTERED = "@event\nclass UserRegistered"
NEEDS_VERSION = [
    Planted(
        ('    name: str = ""\n', ""), "field-removed", "was removed: the old class sees its default", "name"
    ),
    Planted(("    email: Personal[str]\n", ""), "field-removed", "the old class refuses events", "email"),
    Planted(('name: str = ""', 'title: str = ""'), "field-removed", "(renamed to 'title'?)", "name"),
    Planted(('name: str = ""', "name: int = 0"), "field-retyped", "from string to integer", "name"),
    Planted(
        ("referrer: UUID | None = None", 'referrer: str | None = ""'),
        "field-retyped",
        "from string (uuid) to string",
        "referrer",
    ),
    Planted(
        ('name: str = ""', "name: str | None = None"), "field-retyped", "string to string or null", "name"
    ),
    Planted(("Mapping[str, int]", "Mapping[str, str]"), "field-retyped", "integer to string", "scores{}"),
    Planted(
        ("Mapping[str, int]", "Mapping[int, int]"),
        "field-retyped",
        "from object of integer to object of integer (keys: integer)",
        "scores",
    ),
    Planted(
        ("lines: tuple[str, ...] = ()", "lines: frozenset[str] = frozenset()"),
        "field-retyped",
        "from array of string to array of unique string",
        "address.lines",
    ),
    Planted(
        ("tuple[float, float] = (0.0, 0.0)", "tuple[float, int] = (0.0, 0)"), "field-retyped", "", "place[1]"
    ),
    Planted(
        ("tuple[float, float] = (0.0, 0.0)", "tuple[float, ...] = ()"), "field-retyped", "array of", "place"
    ),
    Planted(("lines: tuple[str, ...]", "lines: tuple[int, ...]"), "field-retyped", "", "address.lines[]"),
    Planted(('    name: str = ""', "    name: str"), "field-required", "stored events may lack it", "name"),
    Planted(
        ('name: str = ""', 'name: str = ""\n    phone: str'),
        "required-field-added",
        "new and required",
        "phone",
    ),
    Planted(("    city: str\n", "    city: str\n    zip: str\n"), "required-field-added", "", "address.zip"),
    Planted(('    LINK = "link"\n', ""), "enum-narrowed", "no longer takes 'link'", "method"),
    Planted(
        ('LINK = "link"', 'LINK = "link"\n    SSO = "sso"'),
        "enum-widened",
        "takes 'sso', which the old class refuses",
        "method",
    ),
    Planted(("    @classmethod\n    def _missing_", "    def missing"), "enum-intolerant", "", "plan"),
    Planted(
        ("at most 20 characters", "at most 10 characters"), "rule-changed", "it must be at most 10", "nick"
    ),
    Planted(("nick: Short", "nick: str"), "rule-changed", "has no rule any more", "nick"),
    Planted(('name: str = ""', 'name: Short = ""'), "rule-changed", "has a rule", "name"),
    Planted(("email: Personal[str]", "email: str"), "personal-removed", "new code shows its values", "email"),
    Planted(("Personal[Address] | None", "Address | None"), "personal-removed", "", "address"),
]

by_need = pytest.mark.parametrize("planted", named(NEEDS_VERSION))


@by_need
def test_a_breaking_change_is_named(planted: Planted) -> None:
    """A change that breaks somebody is named with its field, its remedy and the subscriptions it breaks."""
    found = [change for change in changes(planted.edit) if change.verdict == "breaking"]
    (change,) = [change for change in found if change.kind == planted.kind]
    assert planted.text in change.text
    assert (change.topic, change.field) == ("identity.user.registered", planted.field)
    assert change.subscribers == (WELCOME, AUDIT)
    assert change.remedy is not None
    assert change.remedy.startswith("raise the version, @event(version=2)")


@by_need
def test_a_new_version_with_its_upcaster_passes(planted: Planted) -> None:
    """With a new version, and an upcaster from the old one, the same change breaks nobody."""
    step = "\n@upcaster(UserRegistered, from_version=1)\ndef step(data):\n    return data\n"
    raised = (REGISTERED, "@event(version=2)\nclass UserRegistered")
    found = changes(planted.edit, raised, ("TOPICS =", f"{step}\nTOPICS ="))
    assert [change for change in found if change.verdict == "breaking"] == []
    (change,) = [change for change in found if change.kind == planted.kind]
    assert change.verdict == "versioned"


def test_a_new_version_alone_is_not_enough() -> None:
    """Where old events cannot be read, a new version needs an upcaster from each older one."""
    found = changes(
        ('name: str = ""', "name: int = 0"), (REGISTERED, "@event(version=3)\nclass UserRegistered")
    )
    (change,) = [change for change in found if change.verdict == "breaking"]
    assert change.text.endswith("no upcaster begins at version 1")
    assert change.remedy == "write @upcaster(UserRegistered, from_version=1) in the module of the class"


def test_a_new_version_is_enough_where_old_events_can_be_read() -> None:
    """A wider enum hurts only old readers: a new version makes them wait for new code."""
    widened = ('LINK = "link"', 'LINK = "link"\n    SSO = "sso"')
    found = changes(widened, (REGISTERED, "@event(version=2)\nclass UserRegistered"))
    assert {change.kind: change.verdict for change in found} == {
        "version-raised": "harmless",
        "enum-widened": "versioned",
    }


DELETED = 'Topic("identity.user.deleted", UserDeleted)'
NO_VERSION_HELPS = [
    Planted((f", {DELETED}", ""), "topic-removed", "was removed: nothing is published on it any more"),
    Planted(
        ('"identity.user.deleted"', '"identity.user.erased"'),
        "topic-renamed",
        "renamed to 'identity.user.erased'",
    ),
    Planted(
        ("@event\nclass UserDeleted", '@event(type="user.erased")\nclass UserDeleted'),
        "type-renamed",
        "from 'user.deleted' to 'user.erased'",
    ),
    Planted(("UserDeleted(Event)", "UserDeleted(Event[int])"), "ids-retyped", "from uuid to int"),
]


@pytest.mark.parametrize("planted", named(NO_VERSION_HELPS))
@pytest.mark.parametrize("version", [1, 2])
def test_a_change_that_no_version_heals(planted: Planted, version: int) -> None:
    """A topic, a type and the ids are outside of the data: they break subscribers with any version."""
    if version > 1 and "class UserDeleted" not in planted.edit[0]:
        edits = (planted.edit, ("@event\nclass UserDeleted", "@event(version=2)\nclass UserDeleted"))
    else:
        edits = (planted.edit,)
    (change,) = [change for change in changes(*edits) if change.verdict == "breaking"]
    assert (change.kind, change.topic, change.field) == (planted.kind, "identity.user.deleted", None)
    assert planted.text in change.text
    assert change.subscribers == (AUDIT,)
    assert change.remedy


HARMLESS = [
    Planted(
        ('name: str = ""', 'name: str = ""\n    phone: str = ""'), "field-added", "new and optional", "phone"
    ),
    Planted(("    city: str\n", '    city: str = ""\n'), "field-optional", "is optional now", "address.city"),
    Planted(
        ('OTHER = "other"', 'OTHER = "other"\n    GOLD = "gold"'),
        "enum-widened",
        "takes 'gold', which the old class tolerates",
        "plan",
    ),
    Planted(
        ('    FREE = "free"\n', '    FREE = "none"\n'), "enum-narrowed", "which it still tolerates", "plan"
    ),
    Planted(
        ('name: str = ""', 'name: Personal[str] = ""'), "personal-added", "marked as personal now", "name"
    ),
    Planted(
        ('name: str = ""', 'name: Annotated[str, Deprecated("use nick")] = ""'),
        "field-deprecated",
        "is deprecated: use nick",
        "name",
    ),
    Planted(
        (DELETED, f'{DELETED}, Topic("identity.user.seen", UserDeleted)'), "topic-added", "is a new topic"
    ),
    Planted(
        ("UserDeleted)]", 'UserDeleted, deprecated="nobody is deleted")]'),
        "topic-deprecated",
        "is deprecated: nobody is deleted",
    ),
    Planted((REGISTERED, "@event(version=2)\nclass UserRegistered"), "version-raised", "from version 1 to 2"),
]


@pytest.mark.parametrize("planted", named(HARMLESS))
def test_a_harmless_change_passes(planted: Planted) -> None:
    """A change that readers tolerate is told, and breaks nobody."""
    found = changes(planted.edit)
    (change,) = [change for change in found if change.kind == planted.kind]
    assert planted.text in change.text
    assert change.field == planted.field
    assert {change.verdict for change in found if change.kind != "field-removed"} == {"harmless"}


@pytest.mark.parametrize(
    "edit",
    [
        ("UUID | None = None", "None | UUID = None"),
        ("class Address", "class Home"),
        ('name: str = ""', 'name: str = "nobody"'),
        ("@attrs.frozen", '"""Text."""\n@attrs.frozen'),
    ],
)
def test_what_nobody_sees_is_no_change(edit: tuple[str, str]) -> None:
    """The order of a union, the name of a nested class, a default and a text are no changes."""
    edits = [edit, ("Personal[Address]", "Personal[Home]")] if "Home" in edit[1] else [edit]
    assert changes(*edits) == []


def test_different_types_are_described_differently() -> None:
    """A person sees by the words what has changed about a type."""
    types: list[Any] = [str, bool, int, float, bytes, Decimal, UUID, datetime, date, time, timedelta, Any]
    types += [Literal["a"], Literal["a", "b"], int | None, int | str]
    types += [tuple[int, ...], tuple[int], tuple[int, int], tuple[()], tuple[str, ...], frozenset[int]]
    keys = (str, int, UUID, Decimal, date, datetime, Literal["a"])
    types += [Mapping[key, int] for key in keys] + [Mapping[str, str]]  # type: ignore[valid-type]
    fields = {f"f{number}": each for number, each in enumerate(types)}
    cls = event(type("Everything", (Event,), {"__annotations__": fields, "__module__": __name__}))
    described = [describe(schema) for schema in schema_of(cls)["properties"].values()]
    assert len({*described}) == len(types), described


def test_a_lower_version_is_breaking() -> None:
    """A version that goes back would call stored events newer than they are."""
    newer = contract_of(edited((REGISTERED, "@event(version=2)\nclass UserRegistered")))
    found = changes_of(as_data(newer), contract_of(CATALOGUE), "identity", ())
    assert [(change.kind, change.verdict) for change in found] == [("version-lowered", "breaking")]


def test_a_deprecated_topic_may_go_when_nobody_subscribes() -> None:
    """The end of a deprecated topic breaks nobody, if the applications are known and none receives it."""
    lock = as_data(contract_of(edited(("UserDeleted)]", 'UserDeleted, deprecated="use x")]'))))
    gone = contract_of(edited((f", {DELETED}", "")))
    for subscribers, verdict in [((WELCOME,), "harmless"), ((AUDIT,), "breaking"), ((), "breaking")]:
        (change,) = changes_of(lock, gone, "identity", subscribers)
        assert (change.kind, change.verdict) == ("topic-removed", verdict)


def test_a_catalogue_that_is_gone_breaks_each_topic() -> None:
    """A context without its catalogue has lost all its topics."""
    found = changes_of(LOCK, None, "identity", SUBSCRIBERS)
    assert [(change.topic, change.verdict) for change in found] == [
        ("identity.user.deleted", "breaking"),
        ("identity.user.registered", "breaking"),
    ]


def test_a_class_that_holds_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nested class that refers to itself is compared once."""
    monkeypatch.setitem(sys.modules, "copied_catalogue", ModuleType("copied_catalogue"))
    tree = edited(
        ("    lines: tuple[str, ...] = ()\n", '    lines: "tuple[Address, ...]" = ()\n'),
    )
    lock = as_data(contract_of(tree))
    (change,) = changes_of(lock, contract_of(tree.replace("    city: str", "    city: int")), "identity", ())
    assert (change.field, change.kind) == ("address.city", "field-retyped")
