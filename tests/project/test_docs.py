"""The README and the pages of docs/ do what they say: every program runs, every reference is complete.

How a page is read:

- Its ``python`` blocks are one program, run from top to bottom in an empty directory. A block that begins
  with a comment such as ``# hello.py`` is also written to that file, and run like a script. A block may
  await, as a cell of a notebook does: all that do so share one event loop.
- An ``output`` block holds what the ``python`` block above it prints.
- A ``yaml`` block with a section ``bus`` is a configuration without faults, unless its first line begins with
  ``# fragment``. One that begins with ``# app.yaml`` is also written to that file.
- Every ``promenade-bus`` and ``python`` command of a ``console`` block is run, in the same directory. The
  lines below it are part of its output, in this order; blanks do not matter.
- A block below ``<!-- not run: why -->`` is not run. If it has a file, that is written all the same.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import attrs
import click
import pytest
import yaml

from bus_core import EngineState, HealthStatus, SubscriptionState, check_config, errors
from bus_core.config.bus_settings import (
    BusSettings,
    HealthSettings,
    MiddlewareSettings,
    PluginSettings,
    TopicSettings,
)
from bus_core.config.durations import format_duration
from bus_core.config.values import DURATION
from bus_core.plugins import hookspecs
from bus_core.retry import ExponentialRetry, FixedRetry
from bus_core.serialization.cloudevents import JsonOptions
from postgres_support.fixtures import postgres_database, postgres_server
from postgres_support.servers import HOST, USER, PostgresServer
from promenade_bus_avro.options import AvroOptions
from promenade_bus_cli.main import cli
from promenade_bus_health import (
    ClockOptions,
    ConsumptionOptions,
    DeadLetterOptions,
    EngineOptions,
    EventLoopOptions,
    LossOptions,
    QuarantineOptions,
    RetryOptions,
)
from promenade_bus_memory import MemoryOptions
from promenade_bus_middleware import promenade_bus_middleware
from promenade_bus_opentelemetry import OpenTelemetryOptions
from promenade_bus_postgres.config import PostgresOptions
from promenade_bus_postgres.config import ProbeOptions as PostgresProbeOptions
from promenade_bus_postgres.config import RetentionOptions as PostgresRetentionOptions
from promenade_bus_prometheus import PrometheusOptions
from promenade_bus_redis.config import ProbeOptions
from promenade_bus_sentry import SentryOptions
from promenade_bus_sqlite.config import ProbeOptions as SqliteProbeOptions
from promenade_bus_sqlite.config import RetentionOptions, SqliteOptions
from promenade_bus_testing.config import ChaosOptions
from redis_support.fixtures import StartServer, start_server

pytestmark = pytest.mark.once

__all__ = ["postgres_database", "postgres_server", "start_server"]

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(DOCS.rglob("*.md")),
    *(
        ROOT / f"plugins/promenade-bus-{name}/README.md"
        for name in (
            "asgi",
            "avro",
            "django",
            "memory",
            "middleware",
            "new",
            "health",
            "http",
            "opentelemetry",
            "postgres",
            "prometheus",
            "sentry",
            "sqlite",
            "testing",
        )
    ),
]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/.-]+\.(?:py|yaml))\n")
_NOT_RUN = re.compile(r"<!-- not run: .+ -->\n\Z")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


@attrs.frozen
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    is_run: bool

    @property
    def file(self) -> str | None:
        found = _FILE.match(self.text)
        return found[1] if found else None


@attrs.frozen
class Command:
    """A command of a console block, and the lines below it."""

    arguments: list[str]
    output: list[str]
    line: int


def of_page(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    text = page.read_text(encoding="utf-8")
    return tuple(
        Block(
            language=found[1],
            text=found[2],
            line=text.count("\n", 0, found.start()) + 1,
            is_run=_NOT_RUN.search(text[: found.start()]) is None,
        )
        for found in _BLOCK.finditer(text)
    )


def pages_with(*languages: str) -> list[Path]:
    return [page for page in PAGES if any(block.language in languages for block in blocks_of(page))]


FIRST_READ = {"README.md", "docs/guide.md", "docs/tutorial.md"}
"""Pages that ``make test`` runs; it leaves the others to ``make test-all``."""


def pages_to_run(language: str) -> list[Any]:
    """The pages with a language, as parameters of a test that runs their blocks."""
    return [
        pytest.param(page, id=of_page(page), marks=() if of_page(page) in FIRST_READ else pytest.mark.long)
        for page in pages_with(language)
    ]


def commands_of(page: Path) -> Iterator[Command]:
    for block in blocks_of(page):
        if block.language != "console" or not block.is_run:
            continue
        command: Command | None = None
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            if line.startswith("$ "):
                if command is not None:
                    yield command
                command = Command(shlex.split(line[2:], comments=True), [], number)
            elif command is not None and line.strip() not in ("", "..."):
                command.output.append(line)
        if command is not None:
            yield command


# --- programs ---------------------------------------------------------------------------------------------

# Runs the blocks that it reads, and writes down what each of them printed.
_DRIVER = """
import ast, asyncio, contextlib, inspect, io, json, sys
blocks = json.load(sys.stdin)
loop = asyncio.new_event_loop()
await_allowed = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
namespace = {"__name__": "__page__"}
printed = []
sys.path.insert(0, "")
for block in blocks:
    space = {"__name__": "__main__"} if block["file"] else namespace
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        text = "\\n" * block["line"] + block["text"]
        waiting = eval(compile(text, block["page"], "exec", await_allowed, dont_inherit=True), space)
        if inspect.iscoroutine(waiting):
            loop.run_until_complete(waiting)
    printed.append(output.getvalue())
loop.close()
json.dump(printed, sys.stdout)
"""


def environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PROMENADE_BUS", "COLUMNS"))
    }
    return {**kept, "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}


def run(
    arguments: list[str], directory: Path, given: str = "", server: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment(), **server},
        check=False,
    )


@pytest.fixture
def server(page: Path, start_server: StartServer, request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The variables that name servers, for a page whose configuration asks for them."""
    found: dict[str, str] = {}
    files = "".join(block.text for block in blocks_of(page) if block.file)
    if "${REDIS_ADDR" in files:
        found["REDIS_ADDR"] = start_server().address
    if "${POSTGRES_HOST" in files:
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        database = request.getfixturevalue("postgres_database")
        place = {"HOST": HOST, "PORT": str(postgres.port), "DB": database, "USER": USER}
        found |= {f"POSTGRES_{name}": value for name, value in place.items()}
    return found


def write_files(page: Path, directory: Path) -> None:
    for block in blocks_of(page):
        if block.file:
            (directory / block.file).parent.mkdir(parents=True, exist_ok=True)
            (directory / block.file).write_text(block.text, encoding="utf-8")


def python_arguments(command: Command) -> list[str] | None:
    """The text that has to follow the name of the interpreter; None for a command that is not ours to run."""
    program, *rest = command.arguments
    return {"promenade-bus": ["-m", "bus_core", *rest], "python": rest}.get(program)


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("page", pages_to_run("python"))
def test_every_program_of_a_page_runs_and_prints_what_stands_below_it(
    page: Path, tmp_path: Path, server: Mapping[str, str]
) -> None:
    """The python blocks of a page run from top to bottom, and print what the page says."""
    write_files(page, tmp_path)
    blocks = blocks_of(page)
    programs = [
        {"text": block.text, "file": block.file, "line": block.line, "page": of_page(page)}
        for block in blocks
        if block.language == "python" and block.is_run
    ]

    done = run(["-W", "error", "-c", _DRIVER], tmp_path, json.dumps(programs), server)

    assert done.returncode == 0, done.stderr
    printed = iter(json.loads(done.stdout))
    last = ""
    for block in blocks:
        if block.language == "python" and block.is_run:
            last = next(printed)
        elif block.language == "output":
            assert last == block.text, f"{of_page(page)}:{block.line}"


@pytest.mark.parametrize("page", pages_to_run("console"))
def test_every_command_of_a_page_prints_what_stands_below_it(
    page: Path, tmp_path: Path, server: Mapping[str, str]
) -> None:
    """A command of a page runs, and prints the lines that the page shows, in this order."""
    write_files(page, tmp_path)
    for command in commands_of(page):
        arguments = python_arguments(command)
        if arguments is None:
            continue

        done = run(arguments, tmp_path, server=server)

        place = f"{of_page(page)}:{command.line}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, place
        lines = iter(map(squeezed, (done.stdout + done.stderr).splitlines()))
        for wanted in command.output:
            assert any(squeezed(wanted) == line for line in lines), f"{wanted!r} is missing @ {place}"


@pytest.mark.once
def test_unit_files() -> None:
    """A unit of systemd starts a command that exists, and stops it later than its worker would by itself."""
    from promenade_bus_cli.link import GRACE
    from promenade_bus_cli.main import cli

    pages = pages_with("ini")
    assert ROOT / "docs/how-to/deploy-a-worker.md" in pages
    for page in pages:
        blocks = blocks_of(page)
        (bus,) = (
            yaml.safe_load(block.text)["bus"] for block in blocks if block.text.startswith("# app.yaml")
        )
        drain = float(bus["shutdown_timeout"].removesuffix("s"))
        for block in blocks:
            if block.language != "ini":
                continue
            unit = configparser.ConfigParser(interpolation=None)
            unit.optionxform = str  # type: ignore[assignment,method-assign]
            unit.read_string(block.text)
            service = unit["Service"]
            program, *words = shlex.split(service["ExecStart"])
            assert program.endswith("/bin/promenade-bus")
            context = cli.make_context("promenade-bus", words)
            name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
            assert command is not None
            assert command.make_context(name, rest, parent=context).params["app"] == "worker:make_bus"
            assert float(service["TimeoutStopSec"]) > drain + GRACE
            assert service["KillMode"] in ("mixed", "control-group")


@pytest.mark.parametrize("page", pages_with("yaml"), ids=of_page)
def test_every_configuration_of_a_page_is_without_faults(page: Path) -> None:
    """A yaml block of a page can be read, and one with a section for the bus has no fault."""
    for block in blocks_of(page):
        if block.language != "yaml":
            continue
        document = yaml.safe_load(block.text)
        if isinstance(document, Mapping) and "bus" in document and not block.text.startswith("# fragment"):
            assert check_config(document, environ={}) == [], f"{of_page(page)}:{block.line}"


@pytest.mark.parametrize("page", LINKED, ids=of_page)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    """A relative link leads to a file, and its fragment to a heading of that file."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (fragment and fragment not in anchors_of(file)):
            broken.append(target)
    assert broken == []


@cache
def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached_from_the_readme() -> None:
    """Links from the README lead to every page of docs/."""
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        paths = [target.partition("#")[0] for target in _LINK.findall(page.read_text(encoding="utf-8"))]
        ahead += [(page.parent / path).resolve() for path in paths if "://" not in path]
    assert {of_page(page) for page in DOCS.rglob("*.md")} - {of_page(page) for page in seen} == set()


# --- references -------------------------------------------------------------------------------------------


def sections_of(page: Path) -> Mapping[str, str]:
    """The text below each heading, code included, by heading."""
    parts = re.split(r"^#{2,} (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of the tables in a text by their first cell, without its code marks; headers left out."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            first, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))
            rows[first.strip("`")] = cells
    return rows


SETTINGS = {
    "The section `bus`": BusSettings,
    "`middleware`": MiddlewareSettings,
    "`health`": HealthSettings,
    "`plugins`": PluginSettings,
    "`topics`": TopicSettings,
    "Retry policy `exponential`": ExponentialRetry,
    "Retry policy `fixed`": FixedRetry,
    "Serializer `json`": JsonOptions,
    "Serializer `avro`": AvroOptions,
    "Adapter `memory`": MemoryOptions,
    "Middleware `chaos`": ChaosOptions,
    "Health probe `event-loop`": EventLoopOptions,
    "Health probe `engine`": EngineOptions,
    "Health probe `dead-letters`": DeadLetterOptions,
    "Health probe `consumption`": ConsumptionOptions,
    "Health probe `losses`": LossOptions,
    "Health probe `retries`": RetryOptions,
    "Health probe `quarantined-plugins`": QuarantineOptions,
    "Health probe `clock`": ClockOptions,
    "Health probe `redis`": ProbeOptions,
    "Observer `opentelemetry`": OpenTelemetryOptions,
    "Observer `prometheus`": PrometheusOptions,
    "Adapter `postgres`": PostgresOptions,
    "Adapter `postgres`: `retention`": PostgresRetentionOptions,
    "Health probe `postgres`": PostgresProbeOptions,
    "Observer `sentry`": SentryOptions,
    "Adapter `sqlite`": SqliteOptions,
    "Adapter `sqlite`: `retention`": RetentionOptions,
    "Health probe `sqlite`": SqliteProbeOptions,
}
_WORDS = {int: "int", float: "number", bool: "bool", str: "text"}
_ELSEWHERE = {"hub"}  # can be given in code only


def type_word(annotation: Any) -> str | None:
    """The type of a key in the reference; None where it needs more than a word."""
    parts = get_args(annotation)
    if type(None) in parts and len(parts) == 2:
        (annotation,) = (part for part in parts if part is not type(None))
    if get_origin(annotation) is Annotated:
        return "duration" if DURATION in get_args(annotation) else None
    return _WORDS.get(annotation)


def default_text(field: attrs.Attribute[Any], annotation: Any) -> str | None:
    """A default as the reference writes it; None where it is a value of the bus's own."""
    value: Any = field.default
    if value is attrs.NOTHING:
        return "required"
    if type_word(annotation) == "duration" and value is not None:
        return f"`{format_duration(value)}`"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if value is None or value in ("", ()):
        return "none"
    return f"`{value}`" if isinstance(value, int | float | str) else None


@pytest.mark.parametrize("heading", SETTINGS)
def test_the_reference_of_the_configuration_is_complete(heading: str) -> None:
    """Every key has a row with its type and its default, and no other row is there."""
    check_keys(sections_of(DOCS / "reference" / "configuration.md")[heading], SETTINGS[heading])


def check_keys(text: str, settings: type[Any]) -> None:
    """The tables of a text have a row for each key, with its type and its default, and no other row."""
    rows = rows_of(text)
    hints = get_type_hints(settings, include_extras=True)
    fields = {field.name: field for field in attrs.fields(settings) if field.name not in _ELSEWHERE}

    assert set(rows) == set(fields)
    for name, field in fields.items():
        kind, default, meaning = rows[name]
        assert kind == (type_word(hints[name]) or kind), name
        assert default == (default_text(field, hints[name]) or default), name
        assert kind, name
        assert meaning, name


def test_the_reference_of_middleware_is_complete() -> None:
    """Each middleware has a section with its options, and with its guarantee when the process is killed."""
    sections = sections_of(DOCS / "reference" / "middleware.md")
    offered = promenade_bus_middleware()
    assert [heading.strip("`") for heading in sections if heading.startswith("`")] == [*offered]
    for name, factory in offered.items():
        text = sections[f"`{name}`"]
        before, _, after = text.partition("| option | type | default | meaning |")
        check_keys(after, factory.options)
        assert before.strip(), name
        guarantees = after.partition("| if the process is killed | then |")[2]
        assert re.findall(r"^\| [^|`-].+ \| .+ \|$", guarantees, re.MULTILINE), name


def test_the_reference_of_hooks_is_complete() -> None:
    """Every hook has a section with its signature, and no other has."""
    specifications = {
        name: function
        for name, function in vars(hookspecs).items()
        if inspect.isfunction(function) and name.startswith("promenade_bus_")
    }
    expected = {f"`{name}{inspect.signature(function)}`" for name, function in specifications.items()}
    sections = sections_of(DOCS / "reference" / "hooks.md")
    documented = {heading.replace("'", "") for heading in sections if "promenade_bus_" in heading}
    assert documented == {text.replace("'", "") for text in expected}


def test_the_reference_of_errors_is_complete() -> None:
    """The page shows the tree of errors as it is, and has a row for every error."""
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert errors.__doc__ is not None
    tree = inspect.cleandoc(errors.__doc__).partition("::\n\n")[2]
    drawn = re.findall(r"\w+", re.sub(r"  +.*", "", tree, flags=re.MULTILINE))
    [shown] = re.findall(r"^```text\n(BusError\n.*?)^```$", page, re.MULTILINE | re.DOTALL)

    assert shown.split() == tree.split()
    classes = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert set(rows_of(page)) == classes
    assert classes == set(re.findall(r"(?:^|[├└]── )(\w+)", shown, re.MULTILINE)), drawn


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command of the command line that is not a group, by its full name."""
    context = click.Context(cli, info_name="promenade-bus")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            inner = click.Context(command, parent=context, info_name=name)
            for inner_name in command.list_commands(inner):
                found = command.get_command(inner, inner_name)
                assert found is not None
                yield f"promenade-bus {name} {inner_name}", found
        else:
            yield f"promenade-bus {name}", command


def test_the_reference_of_the_command_line_is_complete() -> None:
    """Every command has a section that lists its options, and none that it does not have."""
    sections = sections_of(DOCS / "reference" / "cli.md")
    found = dict(commands())

    assert {heading.strip("`") for heading in sections if "promenade-bus " in heading} == set(found)
    for name, command in found.items():
        shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
        options = [parameter for parameter in shown if isinstance(parameter, click.Option)]
        real = {option.opts[-1] for option in options} - {"--debug"}
        listed = {re.split(r"[ ,]", row)[0] for row in rows_of(sections[f"`{name}`"]) if row.startswith("--")}
        assert listed == real, name


def test_the_architecture_shows_the_rooms_as_the_rules_have_them() -> None:
    """The table of rooms says what each may import, as the architecture test has it."""
    rooms = sections_of(DOCS / "architecture.md")["Rooms"]
    rows = [line.split("|") for line in rooms.splitlines() if line.startswith("| `")]
    shown = {row[1].strip(" `/"): set(re.findall(r"`(\w+)`", row[3])) for row in rows}
    rules = ast.parse((ROOT / "tests" / "project" / "test_architecture.py").read_text(encoding="utf-8"))
    table = next(
        ast.literal_eval(ast.unparse(node.value).replace("set()", "()"))
        for node in rules.body
        if isinstance(node, ast.AnnAssign) and node.value and ast.unparse(node.target) == "ROOMS"
    )
    assert shown == {room: set(others) for room, others in table["bus_core"].items()}


def test_the_reference_names_every_face_of_the_core() -> None:
    """The page for plugin authors lists each name that a room's face offers, and no other."""
    page = sections_of(DOCS / "reference" / "plugin-api.md")
    faces = {
        f"bus_core.{path.parent.name}": importlib.import_module(f"bus_core.{path.parent.name}")
        for path in (ROOT / "bus_core").glob("*/__init__.py")
    }
    offered = {name: set(face.__all__) for name, face in faces.items() if hasattr(face, "__all__")}
    assert {
        name.strip("`"): set(rows_of(text)) for name, text in page.items() if "bus_core." in name
    } == offered


# --- on call ----------------------------------------------------------------------------------------------

ON_CALL = DOCS / "how-to" / "on-call.md"


def test_the_readme_names_every_distribution() -> None:
    """Every plugin is in the table, the example is not."""
    projects = [
        ROOT / "pyproject.toml",
        *ROOT.glob("plugins/*/pyproject.toml"),
        *ROOT.glob("contexts/*/pyproject.toml"),
    ]
    names = {tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in projects}
    rows = re.findall(
        r"^\| \[?`([a-z-]+)`\]?(?:\([^)]*\))? \| `", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert sorted(rows) == sorted(names)


def logged_formats() -> Iterator[str]:
    """The log messages of every distribution, as format strings."""
    files = [*(ROOT / "bus_core").rglob("*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                told = node.args[1] if node.func.attr == "log" else node.args[0]
                if isinstance(told, ast.Constant) and isinstance(told.value, str):
                    yield told.value


def test_every_line_that_is_logged_is_explained() -> None:
    """The page for people on call has a row for every message of the bus and its plugins, and no other."""
    rows = set(rows_of(sections_of(ON_CALL)["Log lines"]))
    patterns = {text: ".+?".join(map(re.escape, re.split("%[dsrg]", text))) for text in logged_formats()}
    explained = {
        text for text, pattern in patterns.items() if any(re.fullmatch(pattern, row) for row in rows)
    }
    outdated = {row for row in rows if not any(re.fullmatch(text, row) for text in patterns.values())}

    assert set(patterns) - explained == set()
    assert outdated == set()


def test_every_status_and_counter_is_explained() -> None:
    """The page for people on call has a row for every health status and for every counter."""
    rows = rows_of(ON_CALL.read_text(encoding="utf-8"))
    counters = [field.name for cls in (EngineState, SubscriptionState) for field in attrs.fields(cls)]
    named = {*HealthStatus, *counters} - {"name", "topic", "subscriptions"}
    assert named - set(rows) == set()
