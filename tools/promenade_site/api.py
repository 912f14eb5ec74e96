"""The pages of the API: every public name once, on the page of the room that defines it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Generic, Protocol

from promenade_site.pages import Page
from promenade_site.public import distributions, homes, room_of

__all__ = ["api_pages"]

FOLDER = "reference/api"


def api_pages() -> Mapping[str, Page]:
    """A page for each room of the core and each package of a plugin or context, and a list of all names."""
    places: dict[str, list[tuple[str, str]]] = {}
    for module, names in homes().items():
        for name in names:
            places.setdefault(_page_of(room_of(module, name)), []).append((module, name))
    pages = [
        Page(f"{FOLDER}/{title}", "\n".join(_lines(title, found)), suffix=".rst")
        for title, found in places.items()
    ]
    pages.append(Page(f"{FOLDER}/index", "\n".join(_index(places)), suffix=".rst"))
    return {page.name: page for page in pages}


def _page_of(module: str) -> str:
    """A package of a plugin has one page for all of its modules."""
    return module if module.startswith("bus_core") else module.partition(".")[0]


def _index(places: Mapping[str, list[tuple[str, str]]]) -> Iterator[str]:
    yield from _heading("API", "=")
    yield (
        "Every name that code outside of this repository may import, made from the code. All other names are"
        " private. :doc:`/reference/compatibility` says how long a public name stays.\n"
    )
    yield from _toctree(sorted(places))
    for page in sorted(places):
        yield from _heading(page, "-")
        yield ".. list-table::\n   :widths: 30 70\n"
        for module, name in places[page]:
            thing = getattr(import_module(module), name)
            yield f"   * - :py:obj:`{name} <{module}.{name}>`"
            yield f"     - {_first_sentence(thing)}"
        yield ""


def _toctree(pages: list[str]) -> Iterator[str]:
    yield ".. toctree::\n   :hidden:\n"
    yield from (f"   {page}" for page in pages)
    yield ""


def _lines(title: str, found: list[tuple[str, str]]) -> Iterator[str]:
    yield from _heading(title, "=")
    install = {package: name for name, package in distributions().items()}.get(title, "promenade-bus")
    yield f"Part of the distribution ``{install}``.\n"
    about = _purpose(title)
    if about:
        yield about + "\n"
    for module in dict.fromkeys(module for module, _ in found):
        yield from _heading(f"Names in {module}", "-")
        yield f".. py:currentmodule:: {module}\n"
        for _, name in (each for each in found if each[0] == module):
            yield from _directive(module, name)


def _purpose(module: str) -> str:
    """The first paragraph of a module's docstring."""
    text = inspect.cleandoc(import_module(module).__doc__ or "")
    return text.partition("\n\n")[0].replace("\n", " ")


def _directive(module: str, name: str) -> Iterator[str]:
    thing = getattr(import_module(module), name)
    kind = kind_of(thing)
    yield f".. auto{kind}:: {module}.{name}"
    if kind in ("class", "exception"):
        if _has_private_base(thing):
            yield "   :inherited-members: Exception, str, object"
        if any(
            base not in (object, Generic, Protocol) and base.__name__[0] != "_" for base in thing.__bases__
        ):
            yield "   :show-inheritance:"
    if kind == "data":
        yield "   :no-value:"
    yield ""


def kind_of(thing: object) -> str:
    """The kind of a name, as autodoc calls it."""
    if isinstance(thing, type):
        return "exception" if issubclass(thing, BaseException) else "class"
    return "function" if inspect.isroutine(thing) else "data"


def _has_private_base(cls: type[Any]) -> bool:
    """True when a class has members of a base that is documented nowhere."""
    return any(
        base.__module__.startswith(("bus_core", "promenade_")) and base not in _public_classes()
        for base in cls.__mro__[1:]
    )


@cache
def _public_classes() -> frozenset[type[Any]]:
    things = (getattr(import_module(module), name) for module, names in homes().items() for name in names)
    return frozenset(thing for thing in things if isinstance(thing, type))


def _first_sentence(thing: object) -> str:
    documented = isinstance(thing, type) or inspect.isroutine(thing)
    text = inspect.cleandoc((thing.__doc__ if documented else "") or "").partition("\n\n")[0]
    return text.replace("\n", " ").partition(". ")[0].rstrip(".:") or "a constant"


def _heading(text: str, mark: str) -> Iterator[str]:
    yield f"{text}\n{mark * len(text)}\n"
