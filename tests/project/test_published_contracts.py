"""The rules for the published contract of every context."""

from __future__ import annotations

import json
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints
from uuid import UUID, uuid4

import attrs
import pytest

import promenade_customer
import promenade_identity
import promenade_shared
from bus_core import Event, InvalidEvent, Topic
from bus_core.dispatch.codec import Codec
from bus_core.errors import DeserializationError
from bus_core.events.base import event_type_of, model_of
from bus_core.events.ids import UUID_ID
from bus_core.events.shapes import is_personal
from bus_core.events.topics import TopicRegistry
from bus_core.serialization.cloudevents import JsonSerializer
from promenade_bus_contracts.checking import check
from promenade_bus_contracts.published import contracts_of
from promenade_bus_contracts.sources import Source
from promenade_customer import PostalAddress

ROOT = Path(__file__).resolve().parents[2]

CONTRACTS: dict[str, ModuleType] = {
    "customer": promenade_customer,
    "identity": promenade_identity,
    "shared": promenade_shared,
}
TOPICS: list[Topic[Any]] = [topic for contract in CONTRACTS.values() for topic in contract.CATALOGUE]
EXAMPLES_OF: dict[str, tuple[Event, ...]] = {
    context: import_module(f"{contract.__name__}.examples").EXAMPLES
    for context, contract in CONTRACTS.items()
}
EXAMPLES: list[Event] = [event for examples in EXAMPLES_OF.values() for event in examples]

# What happened, in the past tense. A new word is added here by who has checked that it is one.
PAST_TENSE = re.compile(
    "activated|churned|converted|created|deactivated|deleted|email_verified|logged|lost|password_changed|"
    "qualified|reactivated|reassigned|registered|stage_changed|suspended|tier_changed|updated|verified|won"
)

by_contract = pytest.mark.parametrize("context", CONTRACTS)
by_topic = pytest.mark.parametrize("topic", TOPICS, ids=str)
by_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda event: type(event).__name__)


# --- names ------------------------------------------------------------------------------------------------


def test_at_least_thirty_topics() -> None:
    """The three contexts publish at least thirty topics, no name twice."""
    names = [topic.name for topic in TOPICS]
    assert len(names) >= 30
    assert len(set(names)) == len(names)


@by_topic
def test_topic_name(topic: Topic[Any]) -> None:
    """A topic is named {context}.{aggregate}.{past-tense action}."""
    context, aggregate, action = topic.name.split(".")
    assert context in CONTRACTS
    assert re.fullmatch("[a-z]+", aggregate)
    assert PAST_TENSE.fullmatch(action)


@by_topic
def test_event_type(topic: Topic[Any]) -> None:
    """An event's type is the name of its topic without the context."""
    assert event_type_of(topic.event_class) == topic.name.split(".", 1)[1]


@by_topic
def test_constant(topic: Topic[Any]) -> None:
    """A topic is a constant of its package: identity.user.registered is USER_REGISTERED."""
    context, _, rest = topic.name.partition(".")
    contract = CONTRACTS[context]
    name = rest.replace(".", "_").upper()
    assert getattr(contract, name) is topic
    assert {name, topic.event_class.__name__, "CATALOGUE"} <= set(contract.__all__)


@by_contract
def test_public_names(context: str) -> None:
    """A contract exports exactly what it lists, and nothing that it only uses."""
    contract = CONTRACTS[context]
    public = {name for name in dir(contract) if not isinstance(getattr(contract, name), ModuleType)}
    assert {name for name in public if not name.startswith("_")} == set(contract.__all__)


@by_topic
def test_documented(topic: Topic[Any]) -> None:
    """An event class says in one sentence what happened."""
    first_line = (topic.event_class.__doc__ or "").splitlines()[0]
    assert re.fullmatch(r"[A-Z].{10,}\.", first_line)


@by_contract
def test_readme_lists_the_topics(context: str) -> None:
    """The README of a contract lists its topics with their classes and what they mean, and no others."""
    rows = "".join(
        f"| `{topic.name}` | `{topic.event_class.__name__}` | {topic.event_class.__doc__.splitlines()[0]} |\n"
        for topic in CONTRACTS[context].CATALOGUE
    )
    table = f"| topic | event class | what happened |\n|---|---|---|\n{rows}\n"
    readme = (ROOT / "contexts" / context / "README.md").read_text(encoding="utf-8")
    assert table in readme, f"the table of topics in the README of {context!r} should be:\n\n{table}"


@by_contract
def test_readme_example_runs(context: str) -> None:
    """The example in the README of a contract runs as it stands."""
    readme = (ROOT / "contexts" / context / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall("^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    exec(compile(example, f"{context}/README.md", "exec"), {})


# --- events as values -------------------------------------------------------------------------------------


@by_contract
def test_examples(context: str) -> None:
    """A contract has one example of every event, in the order of its catalogue."""
    classes = [topic.event_class for topic in CONTRACTS[context].CATALOGUE]
    assert [type(example) for example in EXAMPLES_OF[context]] == classes


@by_example
def test_immutable(example: Event) -> None:
    """No field of an event can be assigned, and none can be added."""
    for field in attrs.fields(type(example)):
        with pytest.raises(AttributeError):
            setattr(example, field.name, getattr(example, field.name))
    with pytest.raises(AttributeError):
        example.unheard_of = 1  # type: ignore[attr-defined]


@by_example
def test_hashable(example: Event) -> None:
    """An event and all its values can be hashed, so nothing in it can change; equal events hash alike."""
    for field in attrs.fields(type(example)):
        if field.name != "metadata":
            hash(getattr(example, field.name))
    assert len({example, attrs.evolve(example)}) == 1


@by_example
def test_pickle(example: Event) -> None:
    """An event comes back from a pickle as it went in."""
    copy = pickle.loads(pickle.dumps(example))
    assert copy == example
    assert type(copy) is type(example)
    assert hash(copy) == hash(example)


@by_example
def test_other_events_differ(example: Event) -> None:
    """Two events with the same data are two events."""
    assert attrs.evolve(example, event_id=uuid4()) != example


@by_example
def test_refuses_anything_else(example: Event) -> None:
    """Every field refuses a value of a foreign type, and the error names the field."""
    for field in attrs.fields(type(example)):
        with pytest.raises(InvalidEvent, match=f"{field.name} must be"):
            attrs.evolve(example, **{field.name: object()})


# --- events on the wire -----------------------------------------------------------------------------------


def codec() -> Codec:
    registry = TopicRegistry()
    for context, contract in CONTRACTS.items():
        registry.add_catalogue(contract.CATALOGUE, context)
    return Codec(JsonSerializer(), registry, "test")


def topic_of(event: Event) -> Topic[Any]:
    return next(topic for topic in TOPICS if topic.event_class is type(event))


@by_example
def test_json_round_trip(example: Event) -> None:
    """An event comes back from JSON as it went in, every value of its own type."""
    wire = codec()
    copy = wire.decode(wire.encode(topic_of(example), example, {}))
    assert copy == example
    assert type(copy) is type(example)
    for field in attrs.fields(type(example)):
        before, after = getattr(example, field.name), getattr(copy, field.name)
        assert type(after) is type(before), field.name


@by_example
def test_newer_fields_are_passed_over(example: Event) -> None:
    """An event of a newer minor version, with one more field, is still understood."""
    wire = codec()
    message = wire.encode(topic_of(example), example, {})
    document = json.loads(message.body)
    document["data"]["added_later"] = {"nested": [1, 2, 3]}
    assert wire.decode(attrs.evolve(message, body=json.dumps(document).encode())) == example


@pytest.mark.once
def test_contracts_are_as_locked() -> None:
    """Each contract is as its lock file says, and reads its golden events; a change needs contracts lock."""
    found = contracts_of(
        (contract.CATALOGUE, f"promenade-context-{name}") for name, contract in CONTRACTS.items()
    )
    report = check(ROOT / "contracts", Source(found, {}, (), (), knows_subscribers=False), ())
    assert report.as_data() == {
        "status": "fine",
        "changes": [],
        "golden": [],
        "unlocked": [],
        "unproven": [],
        "knows_subscribers": False,
    }


# --- personal data ----------------------------------------------------------------------------------------

# Each value shows itself in its own way. Every personal field accepts one of them, so that the repr is seen,
# and refuses others, so that the error is seen.
SECRET = "planted7secret"
PLANTED: list[tuple[str, Callable[[], object]]] = [
    (SECRET, lambda: SECRET),
    (SECRET, lambda: f"{SECRET}@example.org"),
    (SECRET, lambda: SECRET + "\x00"),
    (SECRET, lambda: SECRET.encode()),
    (SECRET, lambda: [SECRET]),
    (SECRET, lambda: {SECRET: SECRET}),
    ("790009911", lambda: "+41790009911"),
    ("790009911", lambda: 41790009911),
    (
        SECRET,
        lambda: PostalAddress(
            lines=(SECRET,), locality=SECRET, postal_code="8001", region=SECRET, country="CH"
        ),
    ),
]


def personal_fields() -> Iterator[Any]:
    for example in EXAMPLES:
        for field in model_of(type(example)).own.fields:
            if is_personal(field.shape):
                yield pytest.param(example, field.name, id=f"{type(example).__name__}.{field.name}")


@pytest.mark.parametrize(("example", "field"), list(personal_fields()))
def test_personal_values_stay_hidden(example: Event, field: str) -> None:
    """A personal value is never in the repr of its event, nor in the error that refuses it."""
    accepted = 0
    for needle, make in PLANTED:
        try:
            event = attrs.evolve(example, **{field: make()})
        except InvalidEvent as error:
            shown = f"{error!r} {error} {error.faults} " + "".join(traceback.format_exception(error))
        else:
            accepted += 1
            shown = f"{event!r} {event}"
        assert needle not in shown
    assert 0 < accepted < len(PLANTED)


@pytest.mark.parametrize(("example", "field"), list(personal_fields()))
def test_personal_values_stay_hidden_when_decoding(example: Event, field: str) -> None:
    """A personal value that arrives on the wire is never in the error that refuses it."""
    wire = codec()
    message = wire.encode(topic_of(example), example, {})
    document = json.loads(message.body)
    refused = 0
    for value in (
        f"{SECRET}\x00{'x' * 2000}",
        [SECRET],
        {SECRET: SECRET},
        {"country": SECRET, "lines": [SECRET]},
    ):
        document["data"][field] = value
        try:
            wire.decode(attrs.evolve(message, body=json.dumps(document).encode()))
        except DeserializationError as error:
            refused += 1
            shown = f"{error!r} {error}" + "".join(traceback.format_exception(error))
            assert SECRET not in shown
    assert refused == 4


PERSONAL_WORDS = re.compile("name|email|phone|address|note|summary|title|registration_number")
# Reference data speaks of no person.
PERSONAL_CONTEXTS = [topic for topic in TOPICS if not topic.name.startswith("shared.")]


@pytest.mark.parametrize("topic", PERSONAL_CONTEXTS, ids=str)
def test_personal_fields_are_marked(topic: Topic[Any]) -> None:
    """A field whose name speaks of a person or of free text is marked as personal."""
    fields = model_of(topic.event_class).own.fields
    unmarked = [
        item.name for item in fields if PERSONAL_WORDS.search(item.name) and not is_personal(item.shape)
    ]
    assert unmarked == []


def test_ids_are_uuids() -> None:
    """A field that refers to something else by its id is a UUID."""
    for topic in TOPICS:
        assert model_of(topic.event_class).id is UUID_ID, topic.name
        for name, annotation in get_type_hints(topic.event_class).items():
            if name.endswith(("_id", "_by")) and name not in ("aggregate_id", "replaced_by"):
                assert annotation in (UUID, UUID | None), f"{topic.name}: {name}"
