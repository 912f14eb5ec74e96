"""``python -m bus_core``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_CLI = """
import runpy, sys
sys.modules["promenade_bus_cli"] = None
runpy.run_module("bus_core", run_name="__main__", alter_sys=True)
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, check=False)


def test_it_hands_over_to_the_command_line() -> None:
    """``python -m bus_core topics`` does what ``promenade-bus topics`` does, exit status included."""
    assert run("-m", "bus_core", "--version").stdout.startswith("promenade-bus ")
    assert run("-m", "bus_core", "nonsense").returncode == 2


def test_without_the_command_line_it_says_how_to_install_it() -> None:
    """Where promenade-bus-cli is not installed it names it, and ends with status 2."""
    found = run("-c", WITHOUT_CLI)
    assert found.returncode == 2
    assert found.stderr == "the command line is not installed; to install it: pip install promenade-bus-cli\n"


def test_a_broken_command_line_is_not_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the command line is installed and misses a library, that library is named."""
    package = tmp_path / "promenade_bus_cli"
    package.mkdir()
    (package / "__init__.py").write_text("import a_library_that_is_missing\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = run("-m", "bus_core", "topics")
    assert "No module named 'a_library_that_is_missing'" in found.stderr
