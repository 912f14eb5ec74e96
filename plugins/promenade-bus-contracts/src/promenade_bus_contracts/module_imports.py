"""The imports of Python files, read without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["Import", "Module", "modules_of"]


@attrs.frozen
class Import:
    """An import anywhere in a file: ``module``, and ``name`` for ``from module import name``."""

    module: str
    name: str | None
    line: int

    @property
    def target(self) -> str:
        """The full name."""
        return self.module if self.name is None else f"{self.module}.{self.name}"


@attrs.frozen
class Module:
    """A Python file, and the name it is imported by."""

    name: str
    path: Path

    def imports(self) -> Iterator[Import]:
        """Yields every import: in functions, for type checkers, and of constant names at run time.

        Raises ``SyntaxError`` and ``ValueError`` for a file that is not Python.
        """
        tree = ast.parse(self.path.read_bytes(), str(self.path))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, None, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node.level, node.module)
                for alias in node.names:
                    yield Import(base, None if alias.name == "*" else alias.name, node.lineno)
            elif isinstance(node, ast.Call) and (name := _named_at_run_time(node)) is not None:
                yield Import(name, None, node.lineno)

    def _base(self, level: int, module: str | None) -> str:
        if not level:
            return module or ""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        parents = package.split(".")
        return ".".join([*parents[: len(parents) - level + 1], *filter(None, [module])])


def _named_at_run_time(call: ast.Call) -> str | None:
    function = call.func
    called = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    if called not in ("import_module", "__import__") or not call.args:
        return None
    first = call.args[0]
    is_name = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return str(first.value) if is_name and not str(first.value).startswith(".") else None  # type: ignore[attr-defined]


def modules_of(package: str, directories: list[Path]) -> list[Module]:
    """Returns the modules of a package, or the one module of that name; empty if it is not there."""
    for directory in directories:
        at = directory.joinpath(*package.split("."))
        if at.is_dir():
            return [_module(package, at, path) for path in sorted(at.rglob("*.py"))]
        if at.with_suffix(".py").is_file():
            return [Module(package, at.with_suffix(".py"))]
    return []


def _module(package: str, directory: Path, path: Path) -> Module:
    parts = [part for part in path.relative_to(directory).with_suffix("").parts if part != "__init__"]
    return Module(".".join([package, *parts]), path)
