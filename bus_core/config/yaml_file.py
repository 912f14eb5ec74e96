"""Reads a YAML file that may be wrong, large or hostile, and reports its faults.

It accepts safe types only, one document, no duplicate keys, and bounded size, depth and expanded aliases. The
section of the bus may have no anchors, aliases and merge keys, so that its meaning is plain to see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import yaml

from bus_core.config.variables import MAX_DEPTH, Tagged
from bus_core.errors import ConfigError

__all__ = ["MAX_BYTES", "MAX_NODES", "load_yaml_file", "parse_yaml", "read_scalar"]

MAX_BYTES: Final = 1_048_576
MAX_NODES: Final = 50_000
"""The most values of a document, including expanded aliases."""


def _for_sections_of_others(base: Any) -> Any:
    """A safe loader that reads unknown tags as ``Tagged``: they belong to the application."""

    class Loader(base):  # type: ignore[misc]
        pass

    Loader.add_constructor(None, lambda loader, node: Tagged())
    return Loader


_Loader: Final[Any] = _for_sections_of_others(getattr(yaml, "CSafeLoader", yaml.SafeLoader))


class _Unacceptable(Exception):
    """A document is not acceptable; the text gives the reason."""


def load_yaml_file(path: str | os.PathLike[str], *, plain_section: str) -> Any:
    """The content of a YAML file as plain data; ``plain_section`` is the one that allows no anchors.

    Raises ``ConfigError`` when it cannot be read, is not UTF-8, is empty, or is not acceptable YAML.
    """
    source = os.fspath(path)
    try:
        with Path(source).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        where = "" if Path(source).is_absolute() else f" (looked for {Path(source).absolute()})"
        raise ConfigError(source, [f"there is no such file{where}; pass the path of a YAML file"]) from None
    except IsADirectoryError:
        raise ConfigError(source, ["this is a directory; pass the path of a YAML file in it"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            source, [f"the file cannot be read: {reason}; check its path and permissions"]
        ) from error
    if len(content) > MAX_BYTES:
        raise ConfigError(source, [f"the file has more than {MAX_BYTES:,} bytes; is it a configuration?"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            source, [f"the file is not UTF-8 (byte {error.start}); save it with that encoding"]
        ) from None
    if not text.strip():
        raise ConfigError(source, ["the file is empty; it needs at least 'bus: {adapter: memory}'"])
    return parse_yaml(text, source, plain_section=plain_section)


def parse_yaml(text: str, source: str, *, plain_section: str) -> Any:
    """The document as plain data; raises ``ConfigError`` with the line and column of a fault."""
    try:
        _check_events(text, plain_section)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            duplicates = list(_duplicate_keys(node))
            if duplicates:
                raise ConfigError(source, duplicates)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except _Unacceptable as fault:
        raise ConfigError(source, [str(fault)]) from None
    except yaml.MarkedYAMLError as error:
        problem = _without_names(error.problem or error.context or "it cannot be understood")
        raise ConfigError(source, [f"not valid YAML: {problem}{_at(error.problem_mark)}"]) from None
    except yaml.YAMLError as error:
        problem = getattr(error, "reason", None) or type(error).__name__
        position = getattr(error, "position", None)
        line = "" if position is None else f" @ line {text.count(chr(10), 0, position) + 1}"
        raise ConfigError(source, [f"not valid YAML: {problem}{line}"]) from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        # PyYAML lets the errors of int(), date() and of explicit tags escape, without a position.
        raise ConfigError(
            source,
            ["not valid YAML: a date, number or tagged value is not what it looks like; put it in quotes"],
        ) from None


def read_scalar(text: str) -> Any:
    """The YAML value of a plain text: ``5`` is an int, ``true`` a bool, the empty text None.

    A text that looks like a date, or like anything but a JSON scalar, stays a text.
    """
    tag = _scalars.resolve(yaml.ScalarNode, text, (True, False))
    if tag not in _JSON_TAGS:
        return text
    try:
        return _scalars.construct_object(yaml.ScalarNode(tag, text))
    except (ValueError, LookupError):
        return text


_scalars: Final[Any] = yaml.SafeLoader("")
_JSON_TAGS: Final = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))


# --- checks before anything is built ----------------------------------------------------------------------


@attrs.define
class _Open:
    """A collection that has not ended yet."""

    mapping: bool
    anchor: str | None
    size: int = 1
    key: str | None = None  # the last key, while its value is awaited
    wants_key: bool = True


def _check_events(text: str, plain_section: str) -> None:
    """Bounds the document while it is only a stream of events, before anything is built."""
    open_nodes: list[_Open] = []
    sizes: dict[str, int] = {}
    documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _Unacceptable(
                    f"the file holds more than one document; remove the '---'{_at(event.start_mark)}"
                )
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            closed = open_nodes.pop()
            if closed.anchor is not None:
                sizes[closed.anchor] = closed.size
            if open_nodes:
                _add(open_nodes[-1], closed.size, None, event)
        elif isinstance(event, yaml.NodeEvent):
            if len(open_nodes) > MAX_DEPTH:
                raise _Unacceptable(f"nested deeper than {MAX_DEPTH} levels{_at(event.start_mark)}")
            if len(open_nodes) == 1 and _is_merge_key(event, open_nodes[0]):
                raise _Unacceptable(
                    f"a merge key (<<) at the top level; write the sections out{_at(event.start_mark)}"
                )
            if _is_inside(plain_section, open_nodes):
                _refuse_sharing(event, open_nodes[-1], plain_section)
                _refuse_unknown_tag(event)
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append(_Open(isinstance(event, yaml.MappingStartEvent), event.anchor))
                continue
            size = 1
            if isinstance(event, yaml.AliasEvent):
                if any(node.anchor == event.anchor for node in open_nodes):
                    raise _Unacceptable(
                        f"an alias inside of its own anchor; write it out{_at(event.start_mark)}"
                    )
                size = sizes.get(event.anchor or "", 1)
            elif event.anchor is not None:
                sizes[event.anchor] = 1
            if open_nodes:
                _add(open_nodes[-1], size, getattr(event, "value", None), event)


def _add(parent: _Open, size: int, scalar: str | None, event: Any) -> None:
    parent.size += size
    if parent.size > MAX_NODES:
        raise _Unacceptable(f"more than {MAX_NODES:,} values, aliases expanded{_at(event.start_mark)}")
    if parent.mapping:
        parent.key = scalar if parent.wants_key else None
        parent.wants_key = not parent.wants_key


def _is_inside(section: str, open_nodes: list[_Open]) -> bool:
    """True when the next node is the value of the section, or inside it."""
    return bool(open_nodes) and open_nodes[0].key == section


def _is_merge_key(event: Any, parent: _Open) -> bool:
    return parent.mapping and parent.wants_key and isinstance(event, yaml.ScalarEvent) and event.value == "<<"


def _refuse_sharing(event: Any, parent: _Open, section: str) -> None:
    if isinstance(event, yaml.AliasEvent):
        raise _Unacceptable(f"an alias in {section!r}; write it out ({_quote('*')}){_at(event.start_mark)}")
    if event.anchor is not None:
        raise _Unacceptable(f"an anchor in {section!r}; write it out ({_quote('&')}){_at(event.start_mark)}")
    if _is_merge_key(event, parent):
        raise _Unacceptable(f"a merge key (<<) in {section!r}; write the values out{_at(event.start_mark)}")


def _refuse_unknown_tag(event: Any) -> None:
    tag = getattr(event, "tag", None)
    if tag not in (None, "!") and tag not in _Loader.yaml_constructors:
        raise _Unacceptable(
            "not valid YAML: could not determine a constructor for the tag "
            f"({_quote('!')}){_at(event.start_mark)}"
        )


def _duplicate_keys(root: yaml.Node) -> Iterator[str]:
    """The duplicate keys of a mapping, found before merge keys mix mappings."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            first: dict[tuple[str, str], yaml.Node] = {}
            for key, value in node.value:
                children += (key, value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                other = first.setdefault((key.tag, key.value), key)
                if other is not key:
                    line = other.start_mark.line + 1
                    yield f"the key {key.value!r} is there twice, first in line {line}{_at(key.start_mark)}"
        elif isinstance(node, yaml.SequenceNode):
            children += node.value
        for child in reversed(children):
            if id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)


def _quote(sign: str) -> str:
    return f"a text that begins with {sign} needs quotes"


def _without_names(problem: str) -> str:
    """A message of PyYAML without names of tags and aliases: a password may begin with !, * or &."""
    for what, sign in (("tag", "!"), ("alias", "*"), ("anchor", "&")):
        before, found, _ = problem.partition(f" {what}")
        if found:
            return f"{before}{found} ({_quote(sign)})"
    return problem


def _at(mark: Any) -> str:
    return "" if mark is None else f" @ line {mark.line + 1}, column {mark.column + 1}"
