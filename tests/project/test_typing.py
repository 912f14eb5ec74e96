from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TYPING = Path(__file__).resolve().parent / "typing_cases"
MYPY_ERROR = re.compile(r"(?P<file>[\w.]+):(?P<line>\d+): error: (?P<message>.*)")

Errors = dict[str, dict[int, list[str]]]
"""The errors per line, per file."""


@pytest.fixture(scope="module")
def user_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the files outside of the repository: there the bus is found as users have it, installed."""
    directory = tmp_path_factory.mktemp("user-code")
    for file in TYPING.glob("*.py"):
        shutil.copy(file, directory)
    return directory


def run(directory: Path, *command: str) -> str:
    """The output of a checker."""
    environment = {**os.environ, "PYRIGHT_PYTHON_GLOBAL_NODE": "0", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        cwd=directory,
        env=environment,
        check=False,
        timeout=110,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def check(found: Errors, checker: str) -> None:
    """Errors are found on exactly the lines that are marked with ``#: error``, maybe ``for`` one checker."""
    for file in TYPING.glob("*.py"):
        marks = re.compile(rf"#: error( for {checker})?$")
        lines = enumerate(file.read_text().splitlines(), start=1)
        marked = {number for number, line in lines if marks.search(line)}
        errors = found[file.name]
        assert {line: errors[line] for line in errors.keys() - marked} == {}, file.name
        assert marked - errors.keys() == set(), f"{checker} finds nothing on these lines of {file.name}"


def test_mypy(user_code: Path) -> None:
    """With --strict, mypy accepts what users write, and finds their mistakes."""
    found: Errors = defaultdict(lambda: defaultdict(list))
    output = run(user_code, "mypy", "--strict", "--cache-dir", str(user_code / "cache"), ".")
    for line in output.splitlines():
        if match := MYPY_ERROR.fullmatch(line):
            found[match["file"]][int(match["line"])].append(match["message"])
    check(found, "mypy")


@pytest.mark.long
def test_pyright(user_code: Path) -> None:
    """Pyright, as strict as it can be, accepts what users write, and finds their mistakes."""
    found: Errors = defaultdict(lambda: defaultdict(list))
    (user_code / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    output = json.loads(run(user_code, "pyright", "--outputjson", "--pythonpath", sys.executable))
    for item in output["generalDiagnostics"]:
        if item["severity"] == "error":
            line: int = item["range"]["start"]["line"] + 1
            found[Path(item["file"]).name][line].append(item["message"])
    check(found, "pyright")
