"""Topics and patterns in a tree of their words: a look-up costs as much as its results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import count
from typing import Generic, TypeVar

from bus_core.events.topics import is_pattern

__all__ = ["TopicIndex", "TopicTree"]

T = TypeVar("T")

_numbers = count()


class _Node:
    """A node of the tree: patterns with these first words pass through it, and ``texts`` end here.

    A node for ``#`` ``repeats``: any further word leads back to it.
    """

    __slots__ = ("children", "repeats", "texts")

    def __init__(self, *, repeats: bool = False) -> None:
        self.repeats = repeats
        self.children: dict[str, _Node] = {}
        self.texts: dict[str, None] = {}


class TopicTree:
    """Topics and patterns by their words, each once."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root = _Node()

    def __bool__(self) -> bool:
        return bool(self._root.children)

    def add(self, text: str) -> None:
        """Adds a topic or pattern; no-op when it is in the tree."""
        node = self._root
        for word in text.split("."):
            if word == "#" and node.repeats:  # consecutive hashes mean one
                continue
            child = node.children.get(word)
            if child is None:
                child = node.children[word] = _Node(repeats=word == "#")
            node = child
        node.texts[text] = None

    def discard(self, text: str) -> None:
        """Undoes ``add``; raises ``KeyError`` when it is not in the tree."""
        way: list[tuple[_Node, str]] = []
        node = self._root
        for word in text.split("."):
            if word == "#" and node.repeats:
                continue
            way.append((node, word))
            node = node.children[word]
        del node.texts[text]
        while way and not node.texts and not node.children:
            node, word = way.pop()
            del node.children[word]

    def covering(self, topic: str) -> list[str]:
        """The topics and patterns that cover a topic."""
        nodes = _with_empty_hashes((self._root,))
        for word in topic.split("."):
            reached: list[_Node] = []
            for node in nodes:
                if node.repeats:
                    reached.append(node)
                for each in (word, "*"):
                    child = node.children.get(each)
                    if child is not None:
                        reached.append(child)
            nodes = _with_empty_hashes(reached)
        return [text for node in nodes for text in node.texts]

    def overlapping(self, text: str) -> Iterator[str]:
        """The topics and patterns that share a topic with this one; for a pattern, all covered topics."""
        words = text.split(".")
        places = [(self._root, 0)]  # a node, and the number of words that led to it
        seen = {*places}
        while places:
            node, at = places.pop()
            if at == len(words):
                yield from node.texts
            for place in _places_next_to(node, words, at):
                if place not in seen:
                    seen.add(place)
                    places.append(place)


def _places_next_to(node: _Node, words: list[str], at: int) -> Iterator[tuple[_Node, int]]:
    """The nodes after one more word."""
    children = node.children
    if "#" in children:
        yield children["#"], at
    if at == len(words):
        return
    word = words[at]
    if word == "#":
        yield node, at + 1
    behind = at if word == "#" else at + 1
    if node.repeats:
        yield node, behind
    for each in children if word in ("*", "#") else (word, "*"):
        if each in children and each != "#":
            yield children[each], behind


def _with_empty_hashes(nodes: Iterable[_Node]) -> Iterable[_Node]:
    """The nodes, and those for ``#`` that are reached from them without a word, each once."""
    found = dict.fromkeys(nodes)
    for node in [*found]:
        child = node.children.get("#")
        if child is not None:
            found[child] = None
    return found


class TopicIndex(Generic[T]):
    """Items by the topic or pattern that each was added under."""

    __slots__ = ("_items", "_patterns", "_topics")

    def __init__(self) -> None:
        self._items: dict[str, dict[T, int]] = {}  # with increasing numbers
        self._patterns: TopicTree | None = None  # while there are some
        self._topics: TopicTree | None = None  # while there are some, after a first comparison with a pattern

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, text: str, item: T) -> None:
        """Adds an item under a topic or pattern; no-op when it is there."""
        items = self._items.get(text)
        if items is None:
            items = self._items[text] = {}
            if is_pattern(text):
                self._patterns = self._patterns or TopicTree()
                self._patterns.add(text)
            elif self._topics is not None:
                self._topics.add(text)
        items.setdefault(item, next(_numbers))

    def discard(self, text: str, item: T) -> bool:
        """Undoes ``add``. Returns False when there is nothing to undo."""
        items = self._items.get(text)
        if items is None or items.pop(item, None) is None:
            return False
        if not items:
            del self._items[text]
            if self._patterns is not None and is_pattern(text):
                self._patterns.discard(text)
                self._patterns = self._patterns or None
            elif self._topics is not None:
                self._topics.discard(text)
        return True

    def at(self, text: str) -> Collection[T]:
        """The items under exactly this topic or pattern, in the order in which they were added."""
        return self._items.get(text, {}).keys()

    def matching(self, topic: str) -> list[T]:
        """The items of a topic, and of the patterns that cover it, in the order in which they were added."""
        texts = [topic] if self._patterns is None else [topic, *self._patterns.covering(topic)]
        found = [items for text in texts if (items := self._items.get(text))]
        if len(found) == 1:
            return [*found[0]]
        numbers: dict[T, int] = {}
        for items in found:
            for item, number in items.items():
                numbers[item] = min(number, numbers.get(item, number))
        return sorted(numbers, key=numbers.__getitem__)

    def overlapping(self, text: str) -> Iterator[str]:
        """The topics and patterns here that share a topic with this topic or pattern."""
        if not is_pattern(text):
            if text in self._items:
                yield text
            if self._patterns is not None:
                yield from self._patterns.covering(text)
            return
        if self._topics is None:
            self._topics = TopicTree()
            for each in self._items:
                if not is_pattern(each):
                    self._topics.add(each)
        for tree in (self._topics, self._patterns):
            if tree is not None:
                yield from tree.overlapping(text)
