"""The origin of each value of the effective configuration: a line of the file, a variable, or a default."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import yaml

from bus_core import BusConfig
from bus_core.config import join_path

__all__ = ["Source", "annotated", "sources_of"]

_VARIABLE: Final = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)")
_COLUMN: Final = 40
"""The column of the comments behind shorter lines."""


@attrs.frozen(kw_only=True)
class Source:
    """The origin of one value.

    ``line`` is None for a default. ``path`` is its place in the file, if that is another one than in the
    effective configuration. ``variables`` tells of each variable whether it is set. ``overridden_by`` is the
    path of the value that is used instead, and ``taken_from`` that of the section which provides the value.
    """

    file: str
    line: int | None = None
    path: str = ""
    variables: Mapping[str, bool] = attrs.field(factory=dict)
    overridden_by: str = ""
    taken_from: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain data; fields that say nothing are left out."""
        found: dict[str, Any] = {"from": "default" if self.line is None else "file"}
        told = {"line": self.line, "path": self.path, "variables": dict(self.variables)}
        told |= {"overridden_by": self.overridden_by, "taken_from": self.taken_from}
        return found | {name: value for name, value in told.items() if value}

    def sentence(self) -> str:
        """Returns it for people."""
        if self.taken_from:
            return f"from {_shown(self.taken_from)}"
        if self.line is None:
            return "default"
        words = f"{os.path.basename(self.file)}:{self.line}"
        if self.path:
            words += f" as {_shown(self.path)}"
        for name, is_set in self.variables.items():
            words += f", ${{{name}}}" + ("" if is_set else " is not set")
        return words + (f"; overridden by {_shown(self.overridden_by)}" if self.overridden_by else "")


def _shown(path: str) -> str:
    return path.removeprefix("$.")


@attrs.frozen
class _Place:
    line: int
    text: str | None
    """The text of a scalar as it is written."""


def _places_in(text: str) -> dict[str, _Place]:
    """The line of each value in YAML, by its path. A key has the line of the key, an item its own."""
    found: dict[str, _Place] = {}

    def walk(node: yaml.Node, path: str, line: int) -> None:
        found[path] = _Place(line + 1, node.value if isinstance(node, yaml.ScalarNode) else None)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    walk(value, join_path(path, key.value), key.start_mark.line)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                walk(item, f"{path}[{index}]", item.start_mark.line)

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        walk(root, "$", 0)
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every scalar and every empty collection in plain data, with its path."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, join_path(path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def sources_of(
    config: BusConfig, effective: Mapping[str, Any], foreign: Mapping[str, Sequence[str]]
) -> dict[str, Source]:
    """Returns the origin of each value by its path in the effective configuration.

    ``foreign`` names the sections outside of ``bus`` that the adapters read, by the name of the adapter.
    """
    places = _places_in(Path(config.source).read_text(encoding="utf-8-sig"))
    moved = dict(config.retry.moved)
    if "$.bus.service" not in places:
        moved["$.bus.service"] = "$.app.name"
    values = dict(_leaves(effective, "$"))
    found = {path: _source(config, places, path, moved.get(path, "")) for path in values}
    for adapter, sections in foreign.items():
        for section in sections:
            found = {
                path: _joined(source, path, values, f"$.bus.{adapter}", f"$.{section}")
                for path, source in found.items()
            }
    return found


def _source(config: BusConfig, places: Mapping[str, _Place], path: str, moved: str) -> Source:
    bare_list = path.replace("$.bus.middleware.consume[", "$.bus.middleware[", 1)
    for candidate in (path, moved, bare_list):
        place = places.get(candidate)
        if place is not None:
            names = _VARIABLE.findall(place.text or "")
            return Source(
                file=config.source,
                line=place.line,
                path="" if candidate in (path, bare_list) else candidate,
                variables={name: bool(config.environ.get(name)) for name in names},
            )
    return Source(file=config.source)


def _joined(source: Source, path: str, values: Mapping[str, Any], own: str, foreign: str) -> Source:
    """Says which one of ``bus.redis.password`` and ``database.redis.password`` is used."""
    if path.startswith(f"{foreign}."):
        winner = own + path.removeprefix(foreign)
        return source if values.get(winner) is None else attrs.evolve(source, overridden_by=winner)
    if path.startswith(f"{own}.") and values[path] is None:
        other = foreign + path.removeprefix(own)
        return source if values.get(other) is None else attrs.evolve(source, taken_from=other)
    return source


def annotated(effective: Mapping[str, Any], sources: Mapping[str, Source]) -> str:
    """Returns the effective configuration as YAML, with the origin of each value in a comment."""
    text = yaml.safe_dump(effective, sort_keys=False, allow_unicode=True, width=10_000)
    comments = {place.line: path for path, place in _places_in(text).items() if path in sources}
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        path = comments.get(number)
        lines.append(line if path is None else f"{line:<{_COLUMN}}  # {sources[path].sentence()}")
    return "\n".join(lines) + "\n"
