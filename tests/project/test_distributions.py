"""Every distribution, built as a wheel and installed into an empty environment, without a network.

The third-party wheels that the installations need are packed again from what is installed here, so that a
real resolver meets real requirements and finds nothing else.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from filelock import FileLock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy import MetaData, create_engine, select
from uv import find_uv_bin

from promenade_bus_outbox import outbox_tables
from redis_support.child_processes import wait_until

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Member:
    """A distribution of the workspace, as its pyproject.toml describes it."""

    directory: Path
    name: str
    requirements: tuple[str, ...]
    extra_requirements: tuple[str, ...]
    package: str

    @property
    def first_party_requirements(self) -> set[str]:
        """Return the names of the distributions of the workspace that this one depends on."""
        names = {Requirement(line).name for line in self.requirements}
        return {name for name in names if name.startswith("promenade-")}


def read_member(directory: Path) -> Member:
    metadata = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))
    project, (package,) = (
        metadata["project"],
        metadata["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    )
    extras = project.get("optional-dependencies", {}).values()
    return Member(
        directory,
        project["name"],
        tuple(project["dependencies"]),
        tuple(line for lines in extras for line in lines),
        Path(package).name,
    )


MEMBERS = {
    member.name: member
    for pattern in (".", "[pc]*/*", "examples")
    for directory in sorted(path.parent for path in ROOT.glob(f"{pattern}/pyproject.toml"))
    for member in [read_member(directory)]
}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command apart from this checkout's and the user's settings, and return what it prints."""
    kept = {
        name: value for name, value in os.environ.items() if not re.match("PYTHON|VIRTUAL_ENV|UV_|PIP_", name)
    }
    settings = {"UV_OFFLINE": "1", "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**kept, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def third_party(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Return the installed distributions that the requirements need, directly and through others."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [need for line in requirements if _is_needed(need := Requirement(line), "")]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in MEMBERS:
            continue
        found[name] = distribution(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                needs = map(Requirement, found[name].requires or [])
                waiting += [need for need in needs if _is_needed(need, extra)]
    return found


def _is_needed(requirement: Requirement, extra: str) -> bool:
    """Tell whether a distribution needs it here, with one of its extras or with none."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def pack(installed: Distribution, target: Path) -> None:
    """Write an installed distribution as the wheel that it came from."""
    files = [
        path
        for path in installed.files or []
        if ".." not in path.parts
        and path.suffix != ".pyc"
        and path.name not in {"RECORD", "INSTALLER", "REQUESTED"}
    ]
    (information,) = {path.parts[0] for path in files if path.match("*.dist-info/WHEEL")}
    tags = [
        line.split("-")
        for line in re.findall("^Tag: (.+)$", installed.read_text("WHEEL") or "", re.MULTILINE)
    ]
    tag = "-".join(".".join(sorted(set(column))) for column in zip(*tags, strict=True))
    with zipfile.ZipFile(target / f"{information.removesuffix('.dist-info')}-{tag}.whl", "w") as wheel:
        for path in files:
            wheel.write(Path(str(path.locate())), path.as_posix())
        wheel.writestr(f"{information}/RECORD", "".join(f"{path.as_posix()},,\n" for path in files))


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A directory with the wheel of every distribution and of what they need, made once for all workers."""
    shared = (
        tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    )
    house, done = shared / "wheelhouse", shared / "wheelhouse.done"
    with FileLock(shared / "wheelhouse.lock"):
        if not done.exists():
            house.mkdir(exist_ok=True)
            build = [find_uv_bin(), "build", "--all-packages", "--wheel", "--no-build-isolation"]
            run(*build, "--python", sys.executable, "--out-dir", house, cwd=ROOT)
            for needed in third_party(
                line
                for member in MEMBERS.values()
                for line in (*member.requirements, *member.extra_requirements)
            ).values():
                pack(needed, house)
            done.touch()
    return house


class Environment:
    """A virtual environment that starts empty and installs from the wheelhouse only."""

    def __init__(self, directory: Path, wheelhouse: Path) -> None:
        self.directory = directory
        self.python = directory / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.wheelhouse = wheelhouse
        self._uv("venv", "--python", sys.executable, directory / "venv")

    def _uv(self, *arguments: str | Path) -> str:
        return run(
            find_uv_bin(),
            *arguments,
            "--quiet",
            "--cache-dir",
            self.wheelhouse.parent / "uv",
            cwd=self.directory,
        )

    def install(self, *requirements: str) -> None:
        source = ["--no-index", "--find-links", self.wheelhouse]
        self._uv("pip", "install", "--python", self.python, *source, *requirements)

    def uninstall(self, *names: str) -> None:
        self._uv("pip", "uninstall", "--python", self.python, *names)

    def run(self, code: str) -> str:
        """Run code with nothing but this environment, where a warning is an error."""
        return run(self.python, "-I", "-W", "error", "-c", code, cwd=self.directory)

    def installed(self) -> set[str]:
        """Return the names of the workspace's distributions that are installed."""
        listed = self.run(
            "from importlib.metadata import *\nfor d in distributions(): print(d.metadata['Name'])"
        )
        return {name for name in listed.split() if name.startswith("promenade")}


@pytest.fixture
def environment(tmp_path: Path, wheelhouse: Path) -> Environment:
    """An empty virtual environment."""
    return Environment(tmp_path, wheelhouse)


def wheel_of(wheelhouse: Path, member: Member) -> Path:
    (path,) = wheelhouse.glob(f"{member.name.replace('-', '_')}-[0-9]*.whl")
    return path


def closure(name: str) -> set[str]:
    """Return a distribution and those of the workspace it depends on."""
    return {name}.union(*(closure(other) for other in MEMBERS[name].first_party_requirements))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_wheel_holds_one_typed_package_and_nothing_else(wheelhouse: Path, name: str) -> None:
    """A wheel carries its package with py.typed and its metadata: no tests, no second package."""
    member = MEMBERS[name]
    with zipfile.ZipFile(wheel_of(wheelhouse, member)) as wheel:
        files = wheel.namelist()
    assert f"{member.package}/py.typed" in files
    assert f"{member.package}/__init__.py" in files
    tops = {file.partition("/")[0] for file in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {member.package}
    own = [file for file in files if "/templates/" not in file]
    assert not [file for file in own if re.search(r"(^|/)(tests?/|conftest\.|test_)", file)]


PREPARED = {
    "promenade-bus-django": """
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["promenade_bus_django", "promenade_bus_django.outbox"],
    PROMENADE_BUS={"bus": {"adapter": "memory"}},
)
import django
django.setup()
""",
}
"""The code that runs before everything is imported: modules of a Django app need a project."""

EXTRAS = {"promenade-bus-outbox": "[sqlalchemy]"}
"""The extras without which some modules do not import."""

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
package = importlib.import_module({package!r})
assert package.__file__.startswith(sys.prefix), package.__file__
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in package.__all__:
    getattr(package, name)
"""


@pytest.mark.long
@pytest.mark.parametrize("name", MEMBERS)
def test_a_distribution_works_alone(environment: Environment, name: str) -> None:
    """Installed from its wheel with what it declares and no more, every module imports."""
    environment.install(name + EXTRAS.get(name, ""))
    assert environment.installed() == closure(name)
    environment.run(PREPARED.get(name, "") + IMPORT_EVERYTHING.format(package=MEMBERS[name].package))


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (
            "standard",
            {
                name
                for name in MEMBERS
                if re.fullmatch("promenade-bus(-(memory|middleware|cli|health|sqlite))?", name)
            },
        ),
        (
            "all",
            {
                name
                for name in MEMBERS
                if not re.fullmatch("promenade-(example|context)-.*|promenade-bus-(new|testing)", name)
            },
        ),
        ("testing", {"promenade-bus", "promenade-bus-memory", "promenade-bus-testing"}),
    ],
)
def test_an_extra_installs_what_it_promises(environment: Environment, extra: str, expected: set[str]) -> None:
    """`[standard]` brings the first plugins, `[all]` every plugin but those for authors, and no context."""
    environment.install(f"promenade-bus[{extra}]")
    assert environment.installed() == expected


SQLALCHEMY_IS_ASKED_FOR = """
import importlib.util
from promenade_bus_outbox import OutboxRelay
assert importlib.util.find_spec("sqlalchemy") is None
try:
    from promenade_bus_outbox import Outbox
except ImportError as error:
    print(error)
"""


def test_the_relay_of_the_outbox_needs_a_driver_only(environment: Environment, tmp_path: Path) -> None:
    """Installed without SQLAlchemy it delivers what an application has written with SQLAlchemy."""
    environment.install("promenade-bus-outbox[cli]", "promenade-bus-sqlite")
    asked = environment.run(SQLALCHEMY_IS_ASKED_FOR)
    assert asked == "Outbox needs SQLAlchemy: pip install 'promenade-bus-outbox[sqlalchemy]'\n"

    url, bus = f"sqlite:///{tmp_path}/app.db", {"adapter": "sqlite", "sqlite": {"path": "bus.db"}}
    (tmp_path / "app.yaml").write_text(json.dumps({"app": {"name": "shop"}, "bus": bus}))
    engine = create_engine(url)
    tables = outbox_tables(MetaData())
    tables.events.metadata.create_all(engine)
    row = {"partition": 0, "topic": "shop.order.placed", "key": "k", "body": b"{}"}
    moment = datetime.now(UTC)
    with engine.begin() as connection:
        rows = [{**row, "event_id": str(number), "written_at": moment} for number in range(5)]
        connection.execute(tables.events.insert(), rows)

    def waiting() -> int:
        with engine.connect() as connection:
            return len(connection.execute(select(tables.events.c.position)).all())

    relay = subprocess.Popen(
        [
            environment.python,
            *["-I", "-m", "bus_core", "outbox", "relay", "--config", "app.yaml", "--database"],
            url,
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: waiting() == 0 or relay.poll() is not None, "the relay delivers", 60)
    finally:
        relay.send_signal(signal.SIGTERM)
        output, _ = relay.communicate()
    assert relay.returncode == 0, output
    assert "delivered 5 events" in output
    engine.dispose()


DISCOVER = """
import json
from bus_core.plugins.discovery import discover
found = discover()
installed = [plugin for plugin in found.installed if plugin.name != "builtins"]
print(json.dumps({
    "plugins": sorted(f"{plugin.name} {plugin.status}" for plugin in installed),
    "topics": sorted(topic.name for catalogue, origin in found.catalogues for topic in catalogue),
}))
"""


def discovered(environment: Environment) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(environment.run(DISCOVER))
    return found


def contexts_of(topics: Iterable[str]) -> set[str]:
    return {topic.partition(".")[0] for topic in topics}


def test_a_bus_sees_just_the_plugins_that_are_installed(environment: Environment) -> None:
    """Core, memory and one context give just these; the next wheel adds topics, removing it takes them."""
    environment.install("promenade-bus", "promenade-bus-memory", "promenade-context-identity")
    before = discovered(environment)
    assert before["plugins"] == ["identity loaded", "memory loaded"]
    assert contexts_of(before["topics"]) == {"identity"}
    assert "identity.user.registered" in before["topics"]

    environment.install("promenade-context-shared")
    after = discovered(environment)
    assert after["plugins"] == ["identity loaded", "memory loaded", "shared loaded"]
    assert contexts_of(after["topics"]) == {"identity", "shared"}
    assert "shared.currency.created" in after["topics"]

    environment.uninstall("promenade-context-shared")
    assert discovered(environment) == before
