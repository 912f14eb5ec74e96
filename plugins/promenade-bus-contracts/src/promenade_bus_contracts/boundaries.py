"""Finds imports across the boundaries of contexts.

The code of a context imports its own packages, and the public modules of any contract. A contract imports no
code of a context. Packages that belong to no context, such as the one that starts the application, may import
everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from bus_core import ConfigError
from promenade_bus_contracts.boundary_settings import Boundaries, read_boundaries
from promenade_bus_contracts.module_imports import Import, Module, modules_of

__all__ = ["Violation", "context_of", "violations"]


@attrs.frozen(order=True)
class Violation:
    """An import that crosses a boundary, with its place and the remedy."""

    path: str
    line: int
    text: str

    def as_data(self) -> dict[str, Any]:
        """Returns the violation as plain data for programs."""
        return attrs.asdict(self)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def violations(file: Path) -> list[Violation]:
    """Returns every violation of the boundaries that a file describes, sorted by place.

    Raises ``ConfigError`` if the file is invalid, or names a package of code that is not there.
    """
    return sorted({*_Verification(file.resolve(), read_boundaries(file)).violations()})


def context_of(name: str, boundaries: Boundaries) -> str | None:
    """Returns the context whose code has a module or handler of that name, or None."""
    owners = {package: context for context, it in boundaries.contexts.items() for package in it.code}
    return owners.get(_longest(name, owners) or "")


class _Verification:
    def __init__(self, file: Path, boundaries: Boundaries) -> None:
        self._file = file
        self._contexts = boundaries.contexts
        self._directories = [file.parent / name for name in boundaries.source]
        self._code = {package: context for context, it in self._contexts.items() for package in it.code}
        self._contracts = {
            package: context for context, it in self._contexts.items() for package in it.contract
        }
        self._packages = {**self._code, **self._contracts}
        self._modules: set[str] = set()

    def violations(self) -> Iterator[Violation]:
        found = {package: modules_of(package, self._directories) for package in self._packages}
        missing = [package for package in self._code if not found[package]]
        if missing:
            where = ", ".join(map(str, self._directories))
            raise ConfigError(
                str(self._file), [f"no package {name!r} in {where} @ boundaries" for name in missing]
            )
        self._modules = {module.name for modules in found.values() for module in modules}
        for package, modules in found.items():
            for module in modules:
                if _longest(module.name, self._packages) == package:  # not of a package inside of this one
                    yield from self._of_module(module, package)

    def _of_module(self, module: Module, package: str) -> Iterator[Violation]:
        path = module.path
        shown = str(path.relative_to(self._file.parent) if path.is_relative_to(self._file.parent) else path)
        try:
            imports = [*module.imports()]
        except (SyntaxError, ValueError) as error:
            yield Violation(shown, getattr(error, "lineno", None) or 1, f"cannot be parsed: {error}")
            return
        for each in imports:
            text = self._fault_of(each, package)
            if text is not None:
                yield Violation(shown, each.line, text)

    def _fault_of(self, found: Import, package: str) -> str | None:
        context, is_contract = self._packages[package], package in self._contracts
        target = _longest(found.target, self._packages)
        if target is None:
            return None
        other = self._packages[target]
        if target in self._code:
            if is_contract:
                return (
                    f"the contract of {context!r} imports {found.target}, the code of {other!r}; "
                    "a contract has events and values alone"
                )
            if other != context:
                contract = ", ".join(self._contexts[other].contract) or "a package of its own"
                return (
                    f"the context {context!r} imports {found.target}, the code of {other!r}; "
                    f"import its contract ({contract}), or subscribe to its events"
                )
            return None
        if other == context or self._is_public(found, target, other):
            return None
        public = ", ".join(self._contexts[other].public) or f"{target} and its modules without underscore"
        who = f"the contract of {context!r}" if is_contract else f"the context {context!r}"
        return (
            f"{who} imports {found.target}, a private part of the contract of {other!r}; "
            f"import from its public part ({public})"
        )

    def _is_public(self, found: Import, package: str, context: str) -> bool:
        below = found.target[len(package) :].split(".")
        if any(part.startswith("_") and not part.endswith("__") for part in below):
            return False
        public = self._contexts[context].public
        is_module = found.name is None or found.target in self._modules
        return not public or (found.target if is_module else found.module) in public


def _longest(name: str, packages: dict[str, str]) -> str | None:
    """Returns the innermost of the packages that a name belongs to."""
    while name and name not in packages:
        name = name.rpartition(".")[0]
    return name or None
