from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from bus_core.events import TopicIndex, patterns_overlap

WORDS = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5)
TEXTS = WORDS.map(".".join)
NAMES = [".".join(words) for length in range(1, 6) for words in product("abc", repeat=length)]
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "discard", "compare"]), TEXTS, st.integers(0, 2)), max_size=12
)


def covers(pattern: list[str], words: list[str]) -> bool:
    """The definition of AMQP topic patterns, word by word: the oracle."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return covers(pattern[1:], words) or (bool(words) and covers(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and covers(pattern[1:], words[1:])


def index_of(steps: Iterable[tuple[str, str, int]]) -> tuple[TopicIndex[int], list[tuple[str, int]]]:
    """An index after some steps, and what it has to hold, in order."""
    index, held = TopicIndex[int](), list[tuple[str, int]]()
    for step, text, item in steps:
        if step == "add":
            index.add(text, item)
            held += [(text, item)] if (text, item) not in held else []
        elif step == "compare":
            expected = {other for other, _ in held if patterns_overlap(text, other)}
            assert sorted(index.overlapping(text)) == sorted(expected)
        else:
            assert index.discard(text, item) is ((text, item) in held)
            held = [each for each in held if each != (text, item)]
    return index, held


@settings(deadline=None)
@given(STEPS, st.lists(st.sampled_from(NAMES), min_size=1, max_size=20))
def test_what_matches_is_found(steps: list[tuple[str, str, int]], names: list[str]) -> None:
    """A topic finds the items of all texts that cover it, each once, in order, after any changes.

    A step "compare" checks that a text overlaps with exactly the texts that share a topic with it.
    """
    index, held = index_of(steps)
    for name in names:
        expected = [item for text, item in held if covers(text.split("."), name.split("."))]
        assert index.matching(name) == [*dict.fromkeys(expected)]
    for text, _ in held:
        assert [*index.at(text)] == [item for other, item in held if other == text]


@settings(deadline=None)
@given(STEPS)
def test_nothing_is_left_behind(steps: list[tuple[str, str, int]]) -> None:
    """An index whose items were all taken out is as small as a new one."""
    index, held = index_of(steps)
    for text, item in held:
        index.discard(text, item)
    assert [getattr(index, name) for name in ("_items", "_patterns")] == [{}, None]


def test_many_hashes_stay_fast() -> None:
    """A pattern of many hashes does not try every way to spread them over a long name."""
    index = TopicIndex[int]()
    index.add("#.a." * 25 + "#.b", 1)
    index.add("#.a.*." * 15 + "#.#.a", 2)
    assert index.matching(".".join("a" * 90)) == [2]
    assert [*index.overlapping("#.a." * 25 + "#.c")] == []


@pytest.mark.parametrize("text", ["a.b", "a.*", "#"])
def test_taking_out_what_is_not_there(text: str) -> None:
    """Taking out what was never added, or was taken out, changes nothing."""
    index = TopicIndex[str]()
    assert not index.discard(text, "item")
    index.add(text, "other")
    assert not index.discard(text, "item")
    assert index.matching("a.b") == ["other"]
    assert index.discard(text, "other")
    assert not index.discard(text, "other")
