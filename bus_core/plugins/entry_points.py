"""Finds plugins in the metadata of installed distributions."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Final

import attrs
import importlib_metadata

from bus_core.plugins.hookspecs import ENTRY_POINT_GROUP

__all__ = ["EntryPoint", "accepts", "canonical_name", "installed_entry_points", "version_of"]


@attrs.frozen(order=True)
class EntryPoint:
    """A plugin as described by the metadata of an installed distribution.

    ``distribution`` is the normalized name.
    """

    name: str
    distribution: str
    value: str
    version: str
    requires: tuple[str, ...]

    def load(self) -> object:
        """Imports the plugin."""
        return importlib_metadata.EntryPoint(self.name, self.value, ENTRY_POINT_GROUP).load()


def installed_entry_points() -> tuple[list[EntryPoint], dict[str, Exception]]:
    """The entry points of all plugins, sorted by name, and the errors of unreadable ones, by place."""
    # A distribution that was just installed must be visible and importable.
    importlib.invalidate_caches()
    found: dict[str, list[EntryPoint]] = {}
    unreadable: dict[str, Exception] = {}
    for distribution in importlib_metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt")
            if not text or ENTRY_POINT_GROUP not in text:
                continue
            metadata = distribution.metadata  # parsed at each access, including the description
            name, version = canonical_name(metadata["Name"]), metadata["Version"]
            requires = tuple(metadata.get_all("Requires-Dist") or distribution.requires or ())
            entries = [
                EntryPoint(entry.name, name, entry.value, version, requires)
                for entry in distribution.entry_points.select(group=ENTRY_POINT_GROUP)
            ]
        except Exception as error:  # the rest of an interrupted uninstall, or an edited file
            unreadable[str(getattr(distribution, "_path", distribution))] = error
            continue
        # Of two distributions with one name, Python imports the earlier one on the path.
        found.setdefault(name, entries)
    return sorted(entry for entries in found.values() for entry in entries), unreadable


_REQUIREMENT = re.compile(r"promenade[-_.]bus\s*(?:\[[^]]*\])?\s*\(?(?P<bounds>[^;)]*)", re.IGNORECASE)
_BOUND = re.compile(r"\s*(?P<operator>>=|<=|<|>)\s*(?P<version>\d+(?:\.\d+)*)\s*")
_COMPARISONS: Final[Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    ">=": lambda left, right: left >= right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    "<": lambda left, right: left < right,
}


def accepts(requirement: str, core_version: str) -> bool:
    """True when a requirement is not about the core, or its bounds admit this version.

    Members depend on the core by ``>=X,<Y``. Other operators are left to pip.
    """
    match = _REQUIREMENT.match(requirement)
    if match is None or requirement[match.end() :].strip(" )") or "extra" in requirement:
        return True
    installed = _release(core_version)
    for part in match["bounds"].split(","):
        bound = _BOUND.fullmatch(part)
        if bound and not _COMPARISONS[bound["operator"]](installed, _release(bound["version"])):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def version_of(distribution: str) -> str | None:
    """The installed version; None when the distribution is not installed."""
    try:
        return importlib_metadata.version(distribution)
    except importlib_metadata.PackageNotFoundError:
        return None


def canonical_name(name: str) -> str:
    """The normalized name of a distribution, in which spellings do not differ."""
    return re.sub(r"[-_.]+", "-", name).lower()
