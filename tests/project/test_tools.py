"""The scripts that run the suite: which tests they run where, their exit status, and their last lines.

They run in a directory of their own, in which every command that they call is a short script.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import product, takewhile
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parents[2]
EVERY_MARK = [
    {mark for mark, has in zip(("long", "once"), flags, strict=True) if has}
    for flags in product((0, 1), repeat=2)
]
PYTEST = ["-m", "pytest", "-o"]
WORKERS = ["-n", "N", "--dist", "worksteal"]
ONE_BY_ONE = ["-n", "0", "--last-failed", "--maxfail=1"]
COLLECTS = "|--collect-only|"

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(sys.platform == "win32", reason="they are scripts for a POSIX shell"),
]


@attrs.frozen
class Leg:
    """One run of pytest. ``selected`` follows ``-m``; ``again`` is true when it has what failed before."""

    python: str
    servers: str
    selected: str
    arguments: tuple[str, ...]
    again: bool = False

    def runs(self, marks: set[str]) -> bool:
        """True when a test with these marks is selected."""
        return not self.selected or bool(
            eval(self.selected, {"long": "long" in marks, "once": "once" in marks})
        )


class Checkout:
    """A directory with the scripts of this checkout, for which three Pythons are found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"
        for directory in ("tools", ".ci"):
            shutil.copytree(ROOT / directory, path / directory)
        self.pythons("3.11", "3.12", "3.13")
        self.script("tools/run-checks", 'echo "checks|$*" >>log')
        self.script("python", 'mkdir -p "$2/bin" && cp pytest "$2/bin/python"')
        self.outcome("exit 0")

    def script(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def pythons(self, *versions: str) -> None:
        self.script("tools/find-python", "".join(f"echo {version} ./python\n" for version in versions))

    def outcome(self, text: str) -> None:
        """The end of every run of pytest, which knows the directory of its environment as ``$0``."""
        self.script(
            "pytest", f'printf "|%s" "$0" "$TEST_SERVERS" "$@" >>log; echo >>log\necho 12 passed\n{text}'
        )

    def failing(self, count: int, text: str) -> None:
        """Some tests fail in each run, and are in the cache; ``text`` is the end of every run after it."""
        failures = ",\n".join(
            f'  "tests/test_x.py::test_it[{number} & more]": true' for number in range(count)
        )
        self.outcome(f"""
case "$*" in *--last-failed*) {text} ;; *--collect-only*) exit 0 ;; esac
cache=${{4#cache_dir=}}/v/cache
[ ! -e "$cache/lastfailed" ] || exit 3
mkdir -p "$cache"
cat >"$cache/lastfailed" <<END
{{
{failures}
}}
END
exit 1""")

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("TEST_SERVERS", "AFTER")}
        commands = f"{self.path / 'commands'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            command,
            cwd=self.path,
            env={**kept, "PATH": commands, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def tests(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return self.run("sh", "tools/run-tests", *arguments, **variables)

    @property
    def checks(self) -> list[str]:
        """The checks that were run, of all environments."""
        lines = [
            line.split("|")[1] for line in self.log.read_text().splitlines() if line.startswith("checks|")
        ]
        return [check for line in lines for check in line.split()[1:]]

    @property
    def legs(self) -> list[Leg]:
        legs = []
        for line in self.log.read_text().splitlines():
            if line.startswith("|") and COLLECTS not in line:
                _, program, servers, *parts = line.split("|")
                venv = program.split("/")[0]
                assert parts[:4] == [*PYTEST, f"cache_dir={venv}/pytest-cache"]
                how, rest = parts[4:8], parts[8:]
                again = how == ONE_BY_ONE
                assert again or [how[0], re.sub(r"^\d+$", "N", how[1]), *how[2:]] == WORKERS
                selected = rest[1] if rest[:1] == ["-m"] else ""
                arguments = tuple(rest[2:] if selected else rest)
                legs.append(Leg(venv.removeprefix(".venv-"), servers, selected, arguments, again))
        return legs

    @property
    def compiled(self) -> list[str]:
        """The Pythons that compiled the tests before any test was run."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("|")]
        before = [*takewhile(lambda line: COLLECTS in line, lines)]
        return [line.split("|")[1].split("/")[0].removeprefix(".venv-") for line in before]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def last_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that sum up, with ``0:00`` for every time."""
    summary = done.stdout[done.stdout.rindex("==> ") :]
    return [re.sub(r"\d+:\d\d", "0:00", line) for line in summary.splitlines()]


# --- which tests are run where ----------------------------------------------------------------------------


def test_the_short_run(checkout: Checkout) -> None:
    """It has the first Python, the newest Redis, no long test, and all checks but pyright."""
    assert checkout.tests("test").returncode == 0
    assert checkout.legs == [Leg("3.11", "newest", "not long", ())]
    assert checkout.checks == ["ruff", "format", "mypy"]


@pytest.mark.parametrize("pythons", [["3.11"], ["3.11", "3.12"], ["3.11", "3.12", "3.13"]])
def test_the_whole_is_complete(checkout: Checkout, pythons: list[str]) -> None:
    """The first Python has every test, the others all that is not marked ``once``; each server is tried."""
    checkout.pythons(*pythons)
    assert checkout.tests("test-all").returncode == 0
    first, *others = checkout.legs
    assert [leg.python for leg in checkout.legs] == pythons
    assert all(first.runs(marks) for marks in EVERY_MARK)
    assert all(leg.runs(marks) is ("once" not in marks) for leg in others for marks in EVERY_MARK)
    assert [leg.servers for leg in checkout.legs] == [
        f"{part}/{len(pythons)}" for part in range(1, len(pythons) + 1)
    ]
    assert checkout.checks == ["ruff", "format", "mypy", "pyright"]


@pytest.mark.parametrize("pythons", [["3.11"], ["3.11", "3.12"], ["3.11", "3.12", "3.13"]])
def test_both_together_are_the_whole(checkout: Checkout, pythons: list[str]) -> None:
    """After the short run the rest follows: no test, no check and no server is missed."""
    checkout.pythons(*pythons)
    checkout.tests("test")
    (short,), checks = checkout.legs, checkout.checks
    checkout.tests("test-all", AFTER="test")
    first, *others = checkout.legs
    assert {short.python, first.python} == {"3.11"}
    assert all(short.runs(marks) or first.runs(marks) for marks in EVERY_MARK)
    assert [leg.python for leg in others] == pythons[1:]
    assert all(leg.runs(marks) is ("once" not in marks) for leg in others for marks in EVERY_MARK)
    assert [leg.servers for leg in checkout.legs] == [
        f"{part}/{len(pythons)}" for part in range(1, len(pythons) + 1)
    ]
    # Part 1 of several is the newest server, and the one part of one is every server: those need everything.
    assert first.selected == ("long" if others else "")
    assert sorted([*checks, *checkout.checks]) == ["format", "mypy", "pyright", "ruff"]


def test_modules_are_compiled_once(checkout: Checkout) -> None:
    """One process of each Python compiles the tests, and keeps that, whatever the environment says."""
    checkout.outcome("exit ${PYTHONDONTWRITEBYTECODE:-0}")
    assert checkout.tests("test", PYTHONDONTWRITEBYTECODE="1").returncode == 0
    assert checkout.compiled == ["3.11"]
    assert checkout.tests("test-all", AFTER="test", PYTHONDONTWRITEBYTECODE="1").returncode == 0
    assert checkout.compiled == ["3.12", "3.13"]
    assert checkout.tests("test-all").returncode == 0
    assert checkout.compiled == ["3.11", "3.12", "3.13"]


def test_servers_by_wish(checkout: Checkout) -> None:
    """Servers that somebody asks for are tried on each Python."""
    checkout.tests("test-all", TEST_SERVERS="all")
    assert [leg.servers for leg in checkout.legs] == ["all"] * 3


def test_arguments_come_last(checkout: Checkout) -> None:
    """Arguments go to pytest as they are, behind its own: another ``-m`` has the last word."""
    checkout.tests("test", "-m", "long", "-k", "a or b")
    assert checkout.legs == [Leg("3.11", "newest", "not long", ("-m", "long", "-k", "a or b"))]


# --- how it ends ------------------------------------------------------------------------------------------


def test_the_last_lines_say_how_long_each_part_took(checkout: Checkout) -> None:
    """The last lines have the outcome and the minutes of each part; those of pytest are printed too."""
    done = checkout.tests("test-all")
    assert last_lines(done) == [
        "==> make test-all: passed in 0:00 minutes",
        "    0:00  ready          set-up for CPython 3.11",
        "    0:00  ready          set-up for CPython 3.12",
        "    0:00  ready          set-up for CPython 3.13",
        "    0:00  passed         checks: ruff format mypy pyright",
        "    0:00  passed         CPython 3.11: everything, servers: 1/3",
        "    0:00  passed         CPython 3.12: not once, servers: 2/3",
        "    0:00  passed         CPython 3.13: not once, servers: 3/3",
    ]
    assert done.stdout.count("12 passed") == 3


def test_a_failure_stops_nothing(checkout: Checkout) -> None:
    """After a part that failed the others are run, and the status is 1."""
    checkout.outcome("case $0 in *3.12*) exit 1 ;; esac")
    done = checkout.tests("test-all")
    assert done.returncode == 1
    assert last_lines(done)[0] == "==> make test-all: failed in 0:00 minutes"
    assert "    0:00  failed         CPython 3.12: not once, servers: 2/3" in last_lines(done)
    assert [leg.python for leg in checkout.legs] == ["3.11", "3.12", "3.13"]


def test_what_passes_by_itself_is_unsteady(checkout: Checkout) -> None:
    """Tests that failed are run once more; when they pass the run passes, and its last lines name them."""
    checkout.failing(2, "exit 0")
    for _ in range(2):  # the failures of an earlier run do not count
        done = checkout.tests("test", "-k", "it")
        assert done.returncode == 0
        first, second = checkout.legs
        assert first == Leg("3.11", "newest", "not long", ("-k", "it"))
        assert second == attrs.evolve(first, again=True)
        assert last_lines(done)[-3:] == [
            "    0:00  passed         CPython 3.11: not long, servers: newest",
            "          unsteady       tests/test_x.py::test_it[0 & more]",
            "          unsteady       tests/test_x.py::test_it[1 & more]",
        ]


@pytest.mark.parametrize(("count", "again"), [(1, True), (10, True), (11, False)])
def test_what_fails_twice_has_failed(checkout: Checkout, count: int, again: bool) -> None:
    """A test that fails by itself, too, has failed; so have many at once, which are not run again."""
    checkout.failing(count, "exit 1")
    done = checkout.tests("test")
    assert done.returncode == 1
    assert [leg.again for leg in checkout.legs] == ([False, True] if again else [False])
    assert last_lines(done)[-1] == "    0:00  failed         CPython 3.11: not long, servers: newest"


def test_checks_that_fail(checkout: Checkout) -> None:
    """The suite is run after checks that failed, and the status is 1."""
    checkout.script("tools/run-checks", "exit 1")
    done = checkout.tests("test")
    assert done.returncode == 1
    assert "    0:00  failed         checks: ruff format mypy" in last_lines(done)
    assert len(checkout.legs) == 1


def test_a_set_up_that_fails(checkout: Checkout) -> None:
    """A Python whose environment cannot be made fails; the checks are run with the next one."""
    checkout.script(
        "python", 'case $2 in *3.11) exit 1 ;; esac; mkdir -p "$2/bin" && cp pytest "$2/bin/python"'
    )
    done = checkout.tests("test-all", AFTER="test")
    assert done.returncode == 1
    assert "    0:00  failed         set-up for CPython 3.11" in last_lines(done)
    assert [leg.python for leg in checkout.legs] == ["3.12", "3.13"]
    assert checkout.checks == ["pyright"]


def test_nothing_is_selected(checkout: Checkout) -> None:
    """Arguments may select nothing in some parts, but not in all; without arguments that is a failure."""
    checkout.outcome("case $0 in *3.11*) exit 0 ;; esac; exit 5")
    some = checkout.tests("test-all", "-k", "planted")
    assert some.returncode == 0
    assert "    0:00  none selected  CPython 3.12: not once, servers: 2/3" in last_lines(some)
    assert checkout.tests("test-all").returncode == 1

    checkout.outcome("exit 5")
    none = checkout.tests("test-all", "-k", "misspelt")
    assert none.returncode == 1
    assert (
        last_lines(none)[-1]
        == "    0:00  failed         no part had a test that these arguments select: -k misspelt"
    )


@pytest.mark.parametrize(
    ("kind", "after", "message"),
    [
        ("test", "test", "AFTER is for test-all"),
        ("test-all", "tests", "AFTER is 'tests'; it can be test"),
        ("everything", "", "usage: run-tests test|test-all [arguments of pytest]"),
    ],
)
def test_a_wrong_wish(checkout: Checkout, kind: str, after: str, message: str) -> None:
    """A wish that it does not know is refused, and nothing is run."""
    done = checkout.tests(kind, AFTER=after)
    assert (done.returncode, done.stderr.strip()) == (2, message)
    assert checkout.legs == []


# --- continuous integration -------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["", "test", "test-all"])
def test_continuous_integration(checkout: Checkout, failing: str) -> None:
    """It has the short run and then the rest, fails with either, and ends with the minutes of each."""
    checkout.script("commands/make", f'echo "make $*: 12 passed"\n[ "$1" != "{failing}" ]')
    done = checkout.run("bash", ".ci/run")
    outcomes = {name: "failed" if name == failing else "passed" for name in ("test", "test-all")}
    assert done.returncode == bool(failing)
    assert re.findall(r"^make .*$", done.stdout, re.MULTILINE) == [
        "make test: 12 passed",
        "make test-all AFTER=test: 12 passed",
    ]
    assert last_lines(done) == [
        "==> .ci/run: 0 minutes",
        f"    0:00  {outcomes['test']}  make test",
        f"    0:00  {outcomes['test-all']}  make test-all AFTER=test",
    ]


# --- the checks, and the Pythons --------------------------------------------------------------------------


def test_some_of_the_checks(tmp_path: Path) -> None:
    """Only checks that are named are run; one that fails makes the status 1, and stops nothing."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    for package in ("bus_core", "examples/crm", "benchmarks"):
        (tmp_path / package).mkdir(parents=True)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name, status in {"ruff": 1, "pyright": 0}.items():
        program = tmp_path / "venv" / "bin" / name
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
    command = ["sh", "tools/run-checks", "venv", "pyright", "ruff"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["==> check: ruff", "==> check: pyright", "==> check: failed: ruff"]
    done = subprocess.run([*command, "ruf"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("run-checks: there is no check ruf; there are: ruff format")


def test_the_python_that_is_asked_for_comes_first() -> None:
    """``PYTHON`` is the first of all, and so the one of the short run; no version is there twice."""
    version = "{}.{}".format(*sys.version_info)
    done = subprocess.run(
        ["sh", ROOT / "tools" / "find-python", "--all"],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONS": f"3.11 3.12 3.13 {version}"},
        capture_output=True,
        text=True,
        check=True,
    )
    versions = [line.split()[0] for line in done.stdout.splitlines()]
    assert versions[0] == version
    assert len(set(versions)) == len(versions)
