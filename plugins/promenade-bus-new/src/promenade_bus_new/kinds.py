"""The kinds of projects, and the names that follow from the name of one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import sys
from collections.abc import Mapping
from typing import Final

import attrs
import yaml

from bus_core.plugins import discover
from promenade_bus_new.errors import NewError

__all__ = ["KINDS", "RESERVED", "Project", "project_of", "well_formed"]

KINDS: Final[Mapping[str, str]] = {
    "adapter": "stores messages outside the process; its tests run the adapter contract",
    "serializer": "turns events into bytes and back",
    "middleware": "wraps handlers and publishes",
    "retry-policy": "decides when a failed attempt is repeated",
    "health-probe": "adds a check to the health report",
    "command": "adds a command to promenade-bus",
    "context": "publishes the events and topics of one bounded context",
    "app": "a small modular monolith: two contexts, a worker, FastAPI, SQLite and Redis",
}
"""Each kind with what a project of it does."""

_OURS: Final = """
asgi avro builtins bus cli console contracts core customer django example health http identity kafka memory
middleware msgspec nats new opentelemetry outbox postgres prometheus promenade promenade-bus rabbitmq redis
sentry shared sqlite testing tests
"""
RESERVED: Final = frozenset(_OURS.split())
"""Names of distributions of Promenade Bus itself, and names that would hide others."""

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PREFIXES: Final = ("promenade-bus-", "promenade-context-")
_LONGEST: Final = 20


@attrs.frozen
class Project:
    """The names of a project: of its distribution and directory, its package, and its classes."""

    kind: str
    name: str

    @property
    def distribution(self) -> str:
        """The name of the distribution, which is that of its directory, too."""
        prefix = {"context": "promenade-context-", "app": ""}.get(self.kind, "promenade-bus-")
        return prefix + self.name

    @property
    def package(self) -> str:
        """The name of the Python package."""
        prefix = {"context": "promenade_", "app": ""}.get(self.kind, "promenade_bus_")
        return prefix + self.name.replace("-", "_")

    @property
    def title(self) -> str:
        """The beginning of the names of classes."""
        return "".join(part.capitalize() for part in self.name.split("-"))


def project_of(kind: str, name: str) -> Project:
    """The project of a kind and a name; raises ``NewError`` for a name that a new one cannot have."""
    project = well_formed(kind, name)
    short = project.name
    python_name = short.replace("-", "_")
    if keyword.iskeyword(python_name) or keyword.issoftkeyword(python_name):
        raise NewError(f"{name!r} is a keyword of Python and cannot be the name of code; choose another name")
    if short in RESERVED:
        raise NewError(f"{name!r} is a name of Promenade Bus itself; choose another name")
    if not isinstance(yaml.safe_load(short), str):
        raise NewError(
            f"{name!r} is no text in YAML, so that a configuration could not name it; choose another name"
        )
    if kind == "context" and short.startswith("bus-"):
        raise NewError(
            f"{name!r} would have the package of a plugin, promenade_{python_name}; choose another name"
        )
    if kind == "app":
        if _is_module(python_name) or _is_distribution(short):
            raise NewError(f"{name!r} is a module of Python or of an installed package; choose another name")
    elif (origin := _offered_by(project)) is not None:
        raise NewError(f"the {kind} {short!r} is offered by {origin} already; choose another name")
    return project


def well_formed(kind: str, name: str) -> Project:
    """The project of a kind and a name, which may be taken, for instance by the project itself.

    Raises ``NewError`` for an unknown kind and for a name of other characters or too many.
    """
    if kind not in KINDS:
        raise NewError(f"there is no kind {kind!r}; kinds are: {', '.join(KINDS)}")
    short = name
    for prefix in _PREFIXES:
        short = short.removeprefix(prefix)
    if not _NAME.fullmatch(short):
        likely = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", short).lower()).strip("-")
        likely = likely.lstrip("0123456789-")
        hint = f"; did you mean {likely!r}?" if _NAME.fullmatch(likely) else ""
        raise NewError(
            f"{name!r} cannot be a name: it must begin with a lower-case letter, and have only lower-case "
            f"letters, digits and single hyphens, as in 'rate-limit'{hint}"
        )
    if len(short) > _LONGEST:
        raise NewError(f"the name {name!r} has {len(short)} characters, at most {_LONGEST} are allowed")
    return Project(kind, short)


def _is_module(name: str) -> bool:
    """True if an application of that name would hide a module, or be hidden by it."""
    if name in sys.stdlib_module_names:
        return True
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None  # a plain directory has no origin


def _is_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _offered_by(project: Project) -> str | None:
    """The installed plugin that offers the same name in the same kind, which no bus could tell apart."""
    offer = (project.kind.replace("-", " "), project.name)
    if project.kind == "context":
        offer = ("topics", project.name.replace("-", "_"))
    for plugin in discover(kinds=offer[:1]).installed:
        if offer in plugin.offers:
            return plugin.origin
    return None
