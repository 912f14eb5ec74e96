"""Every distribution works with the lowest versions of the dependencies that it declares."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from uv import find_uv_bin

from postgres_support.fixtures import postgres_database, postgres_server
from postgres_support.servers import HOST, USER, PostgresServer
from redis_support.binaries import newest_binary
from redis_support.fixtures import StartServer, start_server

__all__ = ["postgres_database", "postgres_server", "start_server"]

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
LOWEST = ROOT / "requirements" / "lowest.in"
ENVIRONMENT = ROOT / ".venv-lowest"
BACKEND = {"editables", "hatchling"}


def declared() -> dict[str, set[str]]:
    """The third-party requirements of all distributions, with their extras, by name."""
    found: dict[str, set[str]] = {}
    for path in ROOT.glob("[!.]*/*/pyproject.toml"):
        _add(found, path)
    for path in (ROOT / "pyproject.toml", ROOT / "examples" / "pyproject.toml"):
        _add(found, path)
    return found


def _add(found: dict[str, set[str]], path: Path) -> None:
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    for line in [*project["dependencies"], *(line for lines in extras for line in lines)]:
        requirement = Requirement(line)
        if requirement.marker is None and not requirement.name.startswith("promenade-"):
            found.setdefault(requirement.name, set()).add(line)


def requirements_of(path: Path) -> dict[str, Requirement]:
    lines = re.findall(r"^[a-z][^\s\\;]*", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {(needed := Requirement(line)).name: needed for line in lines}


def test_the_file_has_every_declared_requirement() -> None:
    """``requirements/lowest.in`` repeats the declarations, and one dependency has one lowest version."""
    listed = requirements_of(LOWEST)
    assert {*listed} - BACKEND == {*declared()}
    for name, lines in declared().items():
        needed = [Requirement(line) for line in lines]
        assert {str(each.specifier) for each in needed} == {str(listed[name].specifier)}, name
        assert set().union(*(each.extras for each in needed)) == listed[name].extras, name


def test_the_pinned_versions_are_the_lowest() -> None:
    """``requirements/lowest.txt`` has the first version that each declaration allows."""
    pinned = requirements_of(LOWEST.with_suffix(".txt"))
    for name, needed in requirements_of(LOWEST).items():
        (bound,), (pin,) = needed.specifier, pinned[name].specifier
        assert (bound.operator, pin.operator) == (">=", "==")
        lowest = Version(bound.version).release
        assert Version(pin.version).release[: len(lowest)] == lowest, name


@pytest.mark.long
@pytest.mark.timeout(600)
def test_everything_works_with_the_lowest_versions(
    tmp_path: Path, start_server: StartServer, postgres_server: PostgresServer, postgres_database: str
) -> None:
    """In an environment of these versions every module imports, and each adapter and serializer works."""
    make_venv = ROOT / "tools" / "make_venv.py"
    run(sys.executable, make_venv, ENVIRONMENT.name, "requirements/lowest.txt", cwd=ROOT)
    python = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(find_uv_bin(), "pip", "check", "--python", python, cwd=ROOT)
    url = f"postgresql://{USER}@{HOST}:{postgres_server.port}/{postgres_database}"
    adapters = [
        {"adapter": "redis", "redis": {"url": start_server(newest_binary()).url}},
        {"adapter": "postgres", "postgres": {"url": url, "migrate": True}},
    ]
    run(python, ROOT / "tests" / "support" / "smoke.py", tmp_path, json.dumps(adapters), cwd=tmp_path)


def run(*command: str | Path, cwd: Path) -> None:
    """Runs a command, and fails with its output."""
    kept = {name: value for name, value in os.environ.items() if not re.match("PYTHON|VIRTUAL_ENV", name)}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=kept, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
