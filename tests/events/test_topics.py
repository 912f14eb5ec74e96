"""Topics, patterns, catalogues, and the registry that knows all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus_core import Event, Topic, TopicCatalogue, event
from bus_core.errors import InvalidTopic, TopicConflict, UnknownTopic
from bus_core.events.topics import TopicPattern, TopicRegistry, is_pattern, patterns_overlap


@event
class UserRegistered(Event):
    email: str


@event
class UserSuspended(Event):
    reason: str = ""


def catalogue(context: str, *topics: Topic[Any]) -> TopicCatalogue:
    return TopicCatalogue(context, topics)


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "identity.user.registered", "a-b.c_d.9", "A.B", "x" * 200])
def test_a_topic_has_a_name_of_words(name: str) -> None:
    """Words of letters, digits, dashes and underscores, joined by single dots, are a name."""
    assert str(Topic(name, UserRegistered)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a.b\n",
        "a/b",
        "é",
        "_a",
        "-a",
        "a.{b}",
        "a\x00",
        "a:b",
        "a.[b]",
        "a?",
    ],
)
def test_other_characters_are_refused_in_names(name: str) -> None:
    """A name can be a key on any server: nothing that a server or a shell gives a meaning is in it."""
    with pytest.raises(InvalidTopic, match=r"invalid topic name .*words of letters, digits"):
        Topic(name, UserRegistered)


def test_a_long_name_is_refused_without_being_repeated_in_full() -> None:
    """Names are bounded, and so is the message about one."""
    with pytest.raises(InvalidTopic, match="has 201 characters; at most 200 fit") as caught:
        Topic("x" * 201, UserRegistered)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("name", ["identity.*.created", "#", "a.#"])
def test_a_pattern_is_no_topic(name: str) -> None:
    """A topic to publish to has one definite name."""
    assert is_pattern(name)
    with pytest.raises(InvalidTopic, match="is a pattern; a topic needs one definite name"):
        Topic(name, UserRegistered)


@pytest.mark.parametrize("name", [None, 7, b"a.b"])
def test_a_name_is_a_str(name: Any) -> None:
    """A name of another type is an error that says so."""
    with pytest.raises(InvalidTopic, match="a topic name is a str, got"):
        Topic(name, UserRegistered)


@pytest.mark.parametrize("cls", [dict, "UserRegistered", None])
def test_a_topic_needs_a_class_of_events(cls: Any) -> None:
    """Anything but a class derived from Event is refused."""
    with pytest.raises(InvalidTopic, match=r"topic 'a.b' needs a class derived from Event"):
        Topic("a.b", cls)


def test_a_class_without_the_decorator_is_refused() -> None:
    """A subclass that forgot @event would not have its fields, so the topic says what to do."""

    class Forgotten(Event):
        email: str

    with pytest.raises(InvalidTopic, match=r"topic 'a.b': decorate the class .*Forgotten with @event"):
        Topic("a.b", Forgotten)


# --- patterns ---------------------------------------------------------------------------------------------


def matches(pattern: list[str], words: list[str]) -> bool:
    """The definition of AMQP topic patterns, word by word: the oracle."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return matches(pattern[1:], words) or (bool(words) and matches(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and matches(pattern[1:], words[1:])


PATTERNS = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=4).map(".".join)
ALL_NAMES = [".".join(words) for length in range(1, 6) for words in product("abc", repeat=length)]


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("identity.*.created", "identity.contact.created", True),
        ("identity.*.created", "identity.created", False),
        ("identity.*.created", "identity.a.b.created", False),
        ("identity.#", "identity", True),
        ("identity.#", "identity.user.registered", True),
        ("identity.#", "identityx.user", False),
        ("#.created", "created", True),
        ("#.created", "a.b.created", True),
        ("a.#.z", "a.z", True),
        ("a.#.z", "a.b.c.z", True),
        ("*", "a", True),
        ("*", "a.b", False),
        ("#", "anything.at.all", True),
        ("a.b", "a.b", True),
        ("a.b", "axb", False),
    ],
)
def test_patterns_match_by_words(pattern: str, topic: str, expected: bool) -> None:
    """A star stands for one word, a hash for any number of words, none included."""
    assert TopicPattern(pattern).matches(topic) is expected


@settings(deadline=None)
@given(PATTERNS, st.sampled_from(ALL_NAMES))
def test_patterns_match_as_defined(pattern: str, name: str) -> None:
    """The compiled pattern agrees with the definition on every name."""
    assert TopicPattern(pattern).matches(name) is matches(pattern.split("."), name.split("."))


@settings(deadline=None)
@given(PATTERNS, PATTERNS)
def test_patterns_overlap_when_some_name_fits_both(first: str, second: str) -> None:
    """Two patterns overlap exactly when a topic exists that both of them match."""
    left, right = first.split("."), second.split(".")
    brute = any(matches(left, name.split(".")) and matches(right, name.split(".")) for name in ALL_NAMES)
    if brute or len(left) + len(right) <= 6:  # longer ones may only meet in a name that is not in the list
        assert patterns_overlap(first, second) is brute
    assert patterns_overlap(first, second) is patterns_overlap(second, first)


def test_many_wildcards_stay_fast() -> None:
    """A pattern of many hashes does not try every way to spread them over a long name."""
    assert not TopicPattern("#.a." * 25 + "#.b").matches(".".join("a" * 90))
    assert TopicPattern("#.a.*." * 15 + "#.#.a").matches(".".join("a" * 90))
    assert not patterns_overlap("#.a." * 25 + "#.b", "#.a." * 25 + "#.c")


@pytest.mark.parametrize("text", ["a..b", "", "a.**", "a.b*", "#a", "a. #", "a.*\n"])
def test_a_bad_pattern_is_refused(text: str) -> None:
    """A wildcard is a word of its own, and the other words follow the rules of names."""
    with pytest.raises(InvalidTopic):
        TopicPattern(text)


def test_a_pattern_is_a_str() -> None:
    """A pattern of another type is an error that says so."""
    with pytest.raises(InvalidTopic, match="a topic pattern is a str, got 7"):
        TopicPattern(7)  # type: ignore[arg-type]


def test_the_most_specific_pattern_sorts_last() -> None:
    """More definite words come first, then fewer hashes, then more stars."""
    patterns = ["a.b.c", "a.b.*", "a.b.#", "a.*.*", "a.#", "#", "*.*.*"]
    ordered = sorted(patterns, key=lambda text: TopicPattern(text).specificity, reverse=True)
    assert ordered == ["a.b.c", "a.b.*", "a.b.#", "a.*.*", "a.#", "*.*.*", "#"]


# --- catalogues -------------------------------------------------------------------------------------------


def test_a_catalogue_holds_the_topics_of_its_context() -> None:
    """A catalogue is made of any iterable, and can be gone through and counted."""
    topics: list[Topic[Any]] = [
        Topic("identity.user.registered", UserRegistered),
        Topic("identity.user.suspended", UserSuspended),
    ]
    made = TopicCatalogue("identity", (topic for topic in topics))
    assert list(made) == topics
    assert len(made) == 2


def test_a_catalogue_reports_all_its_faults() -> None:
    """A topic of another context, and one listed twice, are refused in one error."""
    with pytest.raises(InvalidTopic) as caught:
        catalogue(
            "identity",
            Topic("identity.user.registered", UserRegistered),
            Topic("identityx.user.registered", UserRegistered),
            Topic("identity.user.registered", UserRegistered),
        )
    assert str(caught.value) == (
        "the catalogue of 'identity': 'identityx.user.registered' does not begin with 'identity.'; "
        "'identity.user.registered' is listed twice"
    )


# --- the registry -----------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> TopicRegistry:
    made = TopicRegistry()
    topics: list[Topic[Any]] = [
        Topic("identity.user.registered", UserRegistered),
        Topic("identity.user.suspended", UserSuspended),
    ]
    made.add_catalogue(catalogue("identity", *topics), "promenade-context-identity 0.1.0")
    return made


def test_topics_are_found_by_name(registry: TopicRegistry) -> None:
    """A topic of a catalogue is known by its name, with the distribution that it came from."""
    assert registry.find("identity.user.registered").event_class is UserRegistered
    assert registry.origin("identity.user.registered") == "promenade-context-identity 0.1.0"
    assert registry.origin("nobody.knows.it") is None
    assert registry.get("identity.user.registered") is registry.find("identity.user.registered")
    assert registry.get("nobody.knows.it") is None
    assert list(registry.as_mapping()) == ["identity.user.registered", "identity.user.suspended"]


def test_topics_are_found_by_pattern(registry: TopicRegistry) -> None:
    """A pattern gives the known names that it covers, sorted."""
    registry.declare(Topic("customer.user.registered", UserRegistered))
    assert registry.matching(TopicPattern("*.user.registered")) == [
        "customer.user.registered",
        "identity.user.registered",
    ]


def test_an_unknown_name_gives_the_nearest_ones(registry: TopicRegistry) -> None:
    """A typo is an error that names what was probably meant."""
    with pytest.raises(UnknownTopic, match=r"did you mean 'identity.user.registered'") as caught:
        registry.find("identity.user.regsitered")
    assert caught.value.nearest[0] == "identity.user.registered"
    with pytest.raises(UnknownTopic, match="no installed catalogue declares it"):
        registry.find("zzz")


def test_a_name_that_is_none_is_an_invalid_topic(registry: TopicRegistry) -> None:
    """An impossible name is refused as such, not as unknown."""
    with pytest.raises(InvalidTopic, match="invalid topic name"):
        registry.find("not a name")


def test_a_lenient_registry_takes_any_name() -> None:
    """Without strict topics, an unknown name is a topic of any event, and is not remembered."""
    lenient = TopicRegistry(strict=False)
    assert lenient.find("any.thing").event_class is Event
    assert lenient.as_mapping() == {}
    with pytest.raises(InvalidTopic):
        lenient.find("no.*")


def test_a_topic_object_declares_itself(registry: TopicRegistry) -> None:
    """A second Topic object with the same class is the topic that is known already."""
    known = registry.find("identity.user.registered")
    assert registry.declare(Topic("identity.user.registered", UserRegistered)) is known
    assert registry.declare(Topic("my.own", UserSuspended)).name == "my.own"
    assert registry.origin("my.own") == "declared in code"


def test_one_name_with_two_classes_is_a_conflict(registry: TopicRegistry) -> None:
    """The error names both classes, and where the first one came from."""
    with pytest.raises(TopicConflict) as caught:
        registry.declare(Topic("identity.user.registered", UserSuspended))
    assert "UserRegistered (promenade-context-identity 0.1.0)" in str(caught.value)
    assert "UserSuspended" in str(caught.value)


def test_two_catalogues_with_one_topic_are_a_conflict(registry: TopicRegistry) -> None:
    """One context owns a topic; both distributions are named."""
    other = catalogue("identity", Topic("identity.user.registered", UserRegistered))
    with pytest.raises(TopicConflict, match=r"declared by promenade-context-identity 0.1.0 and by other 1.0"):
        registry.add_catalogue(other, "other 1.0")


def test_a_class_whose_annotations_name_nothing_is_told_with_its_topic() -> None:
    """A name that is not defined by then would make a dead letter of every event that is read."""
    cls: Any = event(type("Misspelt", (Event,), {"__annotations__": {"x": "Strng"}, "__module__": __name__}))
    topic: Topic[Any] = Topic("a.b.c", cls)
    registry = TopicRegistry()
    with pytest.raises(InvalidTopic, match=r"topic 'a\.b\.c': Misspelt: an annotation names 'Strng'"):
        registry.declare(topic)
    with pytest.raises(InvalidTopic, match="'Strng', which is not defined in its module"):
        registry.add_catalogue(catalogue("a", topic), "tests")
    assert "a.b.c" not in registry


def test_a_topic_of_an_abstract_class_is_refused() -> None:
    """Nobody could make one of its events."""

    class Abstract(Event, ABC):
        @abstractmethod
        def total(self) -> int: ...

    with pytest.raises(InvalidTopic, match=r"the class .*Abstract is abstract; nobody can make one"):
        Topic("a.b.c", event(Abstract))
