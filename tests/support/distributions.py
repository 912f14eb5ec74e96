"""Distributions that exist only for a test, as they lie in a site-packages directory."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest


def hide_distribution(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let discovery find everything that is installed, except one distribution."""
    found = importlib_metadata.distributions

    def others(**context: Any) -> list[Any]:
        return [item for item in found(**context) if item.metadata["Name"] != name]

    monkeypatch.setattr(importlib_metadata, "distributions", others)


class Site:
    """A directory of installed distributions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._modules: set[str] = set()

    def install(
        self,
        distribution: str,
        source: str = "",
        *,
        version: str = "1.0",
        module: str | None = None,
        entry_points: Mapping[str, str] | None = None,
        requires: Sequence[str] = (),
    ) -> None:
        """Install a distribution with one module.

        By default it has one entry point, named like the distribution without its prefix, that leads to the
        module, whose name begins with ``fake_`` so that it never stands for a real one. The source is
        dedented, and has everything that a plugin needs imported.
        """
        module = module or "fake_" + re.sub(r"[-.]", "_", distribution)
        self._modules.add(module)
        short = distribution.removeprefix("promenade-bus-").removeprefix("promenade-context-")
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = [f"Requires-Dist: {requirement}\n" for requirement in requires]
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {distribution}\nVersion: {version}\n{''.join(lines)}"
        )
        entries = [f"{name} = {value}\n" for name, value in (entry_points or {short: module}).items()]
        (info / "entry_points.txt").write_text(f"[promenade_bus]\n{''.join(entries)}")
        (self.path / f"{module}.py").write_text(PRELUDE + textwrap.dedent(source))

    def forget_modules(self) -> None:
        """Undo the imports, so that the next test begins as a new process would."""
        for module in self._modules:
            sys.modules.pop(module, None)


PRELUDE = """\
import attrs
from bus_core import Event, Topic, TopicCatalogue, event, hookimpl
from bus_core.abc import Command, Endpoint, Factory

@attrs.frozen
class Options:
    size: int = 1

FACTORY = Factory(Options, lambda options, context: object())

"""
