"""The section ``boundaries`` of a project: the packages of each context, its code and its contract."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
import yaml

from bus_core import ConfigError
from bus_core.config import Reader, join_path, read_settings

__all__ = ["Boundaries", "ContextPackages", "read_boundaries"]


def _read_names(value: Any, path: str, faults: list[str]) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        faults.append(f"expected a name, or a list of names @ {path}")
        return ()
    return tuple(names)


Names = Annotated[tuple[str, ...], Reader(_read_names, list)]


@attrs.frozen(kw_only=True)
class ContextPackages:
    """``code`` are the packages of a context's code, and ``contract`` those that others may import.

    ``public`` are the modules of the contract that others may import. By default these are all without a
    leading underscore.
    """

    code: Names = ()
    contract: Names = ()
    public: Names = ()


def _read_contexts(value: Any, path: str, faults: list[str]) -> Mapping[str, ContextPackages]:
    if not isinstance(value, Mapping) or not value:
        faults.append(f"expected a mapping from contexts to their packages @ {path}")
        return {}
    found: dict[str, ContextPackages] = {}
    for name, raw in value.items():
        packages = read_settings(ContextPackages, raw, join_path(path, name), faults)
        if packages is not None:
            found[str(name)] = packages
            if not packages.code and not packages.contract:
                faults.append(f"a context needs 'code' or 'contract' @ {join_path(path, name)}")
    return found


@attrs.frozen(kw_only=True)
class Boundaries:
    """The packages of each context. ``source`` are the directories with the packages, beside the file."""

    contexts: Annotated[Mapping[str, ContextPackages], Reader(_read_contexts, dict)]
    source: Names = ("src", ".")


def read_boundaries(file: Path) -> Boundaries:
    """Reads ``[tool.promenade-bus.boundaries]`` of a TOML file, or ``boundaries`` of a YAML file.

    Raises ``ConfigError`` with every fault.
    """
    is_toml = file.suffix == ".toml"
    path = "$.tool.promenade-bus.boundaries" if is_toml else "$.boundaries"
    raw = _section(file, path.split(".")[1:], is_toml)
    if raw is None:
        remedy = "name there the packages of each context"
        raise ConfigError(str(file), [f"the section is missing; {remedy} @ {path}"])
    faults: list[str] = []
    found = read_settings(Boundaries, raw, path, faults)
    if faults or found is None:
        raise ConfigError(str(file), faults)
    return found


def _section(file: Path, keys: Sequence[str], is_toml: bool) -> object:
    try:
        text = file.read_text(encoding="utf-8")
        document: object = tomllib.loads(text) if is_toml else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(str(file), [f"the file cannot be read: {error} @ $"]) from error
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document
