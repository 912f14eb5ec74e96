"""The public modules of the installed distributions, and their names.

The modules are ``bus_core``, its faces, the package of each installed plugin and context, and modules from
which a page shows an import. A name is public when the ``__all__`` of one of them lists it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from inspect import isroutine
from pathlib import Path

__all__ = ["distributions", "homes", "is_hook", "names_of", "public_modules", "room_of"]

ROOT = Path(__file__).resolve().parents[2]
_SHOWN = re.compile(r"^\s*from (promenade_\w+(?:\.\w+)+) import", re.MULTILINE)


@cache
def distributions() -> Mapping[str, str]:
    """The import package of each installed plugin and context of this project, by its distribution."""
    found = {}
    for entry in entry_points(group="promenade_bus"):
        name = entry.dist.name if entry.dist else ""
        if re.match("promenade-(bus|context)-", name):
            found[name] = entry.value.partition(":")[0].partition(".")[0]
    return dict(sorted(found.items()))


@cache
def public_modules() -> tuple[str, ...]:
    """The names of all public modules; those of the core first, ``bus_core`` before its faces."""
    core = Path(import_module("bus_core").__file__ or "").parent
    faces = [f"bus_core.{path.parent.name}" for path in sorted(core.glob("*/__init__.py"))]
    found = ["bus_core", "bus_core.errors", "bus_core.on_demand", *faces]
    found += distributions().values()
    found += sorted(_shown_modules(frozenset(distributions().values())))
    return tuple(name for name in found if names_of(name))


def _shown_modules(packages: frozenset[str]) -> set[str]:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")]
    pages += ROOT.glob("contexts/*/README.md")
    named = {name for page in pages for name in _SHOWN.findall(page.read_text(encoding="utf-8"))}
    return {name for name in named if name.partition(".")[0] in packages and find_spec(name)}


def names_of(module: str) -> list[str]:
    """The names that a module offers, in the order of its ``__all__``, without hook implementations."""
    offered: list[str] = getattr(import_module(module), "__all__", [])
    return [name for name in offered if not is_hook(name)]


def is_hook(name: str) -> bool:
    """True for a hook implementation, which only discovery calls."""
    return name.startswith("promenade_bus_")


@cache
def homes() -> Mapping[str, tuple[str, ...]]:
    """The names that each public module is the home of: the first that offers a thing, under one name."""
    taken: dict[tuple[str, object], str] = {}
    found: dict[str, list[str]] = {}
    for module in public_modules():
        for name in names_of(module):
            thing = getattr(import_module(module), name)
            key = _key(thing, name)
            if taken.setdefault(key, module) == module:
                found.setdefault(module, []).append(name)
    return {module: tuple(sorted(names, key=str.lower)) for module, names in found.items()}


def _key(thing: object, name: str) -> tuple[str, object]:
    """The same for one thing under one name; constants of equal value are told apart by their names."""
    if isinstance(thing, type) or isroutine(thing):
        return thing.__qualname__, thing.__module__
    return name, id(thing)


def room_of(module: str, name: str) -> str:
    """The room of the core, or the package, in which a name is defined."""
    if module != "bus_core":
        return module
    for defining, defined in _definitions():
        if defined == name:
            return ".".join(defining.split(".")[:2])
    return module


@cache
def _definitions() -> tuple[tuple[str, str], ...]:
    """The module and the name of each import that the core's own face has for type checkers."""
    return tuple(_imports_for_types(Path(sys.modules["bus_core"].__file__ or "")))


def _imports_for_types(path: Path) -> Iterator[tuple[str, str]]:
    for block in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "typing.TYPE_CHECKING":
            for statement in block.body:
                if isinstance(statement, ast.ImportFrom):
                    yield from ((str(statement.module), alias.name) for alias in statement.names)
