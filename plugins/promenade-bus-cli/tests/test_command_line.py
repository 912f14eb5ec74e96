"""The group itself: finding commands, errors, exit statuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from bus_core.plugins import discover
from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.loading import load_command
from promenade_bus_cli.main import cli
from support.distributions import Site

Run = Any
"""The fixture ``run``; its class lives in conftest.py, which cannot be imported."""


def test_the_plugin_itself_loads_no_library_of_the_command_line() -> None:
    """Plugin discovery imports neither click nor rich."""
    code = "import promenade_bus_cli, sys; print([m for m in ('click', 'rich') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["config", "explain", "health", "plugins", "publish", "run", "topics"])
def test_every_command_is_listed_and_has_help(run: Run, name: str) -> None:
    """The help page names each built-in command, and each has a page of its own."""
    assert f"\n  {name} " in run("--help").output
    assert run(name, "--help").exit_code == 0


def test_an_unknown_command_is_met_with_the_nearest_one(run: Run) -> None:
    """A typo ends with status 2 and a suggestion."""
    result = run("pulish")
    assert result.exit_code == 2
    assert "no command named 'pulish'; did you mean 'publish'?" in result.output


def test_the_missing_demo_tells_where_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the example application 'demo' says that it comes with the repository."""
    monkeypatch.setenv("PROMENADE_BUS_PLUGINS", "off")
    result = run("demo")
    assert result.exit_code == 2
    assert "example application" in result.output
    assert "make demo" in result.output


def test_the_missing_new_tells_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without promenade-bus-new the command 'new' says how to get it."""
    monkeypatch.setenv("PROMENADE_BUS_PLUGINS", "off")
    result = run("new", "app", "shop")
    assert result.exit_code == 2
    assert "it comes with promenade-bus-new: run pip install 'promenade-bus[new]'" in result.output


GREETER = """
def load():
    import click
    @click.command()
    def greet():
        "Say hello."
        click.echo("hello")
    return greet

@hookimpl
def promenade_bus_commands():
    return {
        "greet": Command(help="Say hello.", load=load),
        "greet-quietly": Command(help="Say hello to nobody.", load=load, hidden=True),
    }
"""


def test_plugins_add_commands(run: Run, site: Site) -> None:
    """A plugin's command is listed with its help line and runs; a hidden one runs but is not listed."""
    site.install("promenade-bus-greeter", GREETER)
    listing = run("--help").output
    assert re.search(r"^  greet +Say hello\.$", listing, re.MULTILINE)
    assert "greet-quietly" not in listing
    assert run("greet").output == "hello\n"
    assert run("greet-quietly").output == "hello\n"


def test_a_shell_completes_commands(run: Run, site: Site) -> None:
    """Shell completion offers commands with the typed prefix, and options, but no hidden command."""
    site.install("promenade-bus-greeter", GREETER)
    group = click.Context(cli, info_name="promenade-bus")
    assert [(item.value, item.help) for item in cli.shell_complete(group, "gree")] == [
        ("greet", "Say hello.")
    ]
    assert "--version" in [item.value for item in cli.shell_complete(group, "--")]
    assert cli.shell_complete(group, "nothing") == []


def test_every_installed_command_says_in_its_list_what_it_says_of_itself() -> None:
    """The help line of each command in the list is the first sentence of the command's own help."""
    offers = [*discover(kinds=("command",)).commands]
    assert {offer.name for offer in offers} >= {"account", "config", "demo", "groups", "run", "topics"}
    said = {offer.name: load_command(offer).get_short_help_str(1_000) for offer in offers}
    assert {offer.name: offer.value.help for offer in offers} == said


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("lambda: 1 / 0", "ZeroDivisionError"),
        ("lambda: exit(7)", "SystemExit"),
        ("lambda: 'text'", "an object of type str, not a click command"),
    ],
)
def test_a_broken_command_harms_no_other(run: Run, site: Site, answer: str, message: str) -> None:
    """A plugin's command that cannot be loaded is named with its distribution; help and others work."""
    site.install(
        "promenade-bus-broken",
        f"""
        @hookimpl
        def promenade_bus_commands():
            return {{"shaky": Command(help="Shake.", load={answer})}}
        """,
    )
    result = run("shaky")
    assert result.exit_code == 2
    assert "the command 'shaky' of promenade-bus-broken 1.0 cannot be loaded" in result.output
    assert message in result.output
    listing = run("--help")
    assert listing.exit_code == 0
    assert re.search(r"^  shaky +Shake\.$", listing.output, re.MULTILINE)
    assert run("plugins", "list").exit_code == 0


def test_the_doctor_finds_a_command_that_cannot_be_loaded(run: Run, site: Site) -> None:
    """Only running a command loads it, so the doctor tries each."""
    site.install(
        "promenade-bus-broken",
        """
        @hookimpl
        def promenade_bus_commands():
            return {"shaky": Command(help="Shake.", load=lambda: 1 / 0)}
        """,
    )
    [finding] = run.json("plugins", "doctor", status=1)
    assert (finding["severity"], finding["plugin"]) == ("error", "promenade-bus-broken 1.0")
    assert finding["what"] == (
        "the command 'shaky' of promenade-bus-broken 1.0 cannot be loaded: "
        "ZeroDivisionError: division by zero"
    )


def test_a_command_that_two_plugins_offer_is_listed_with_the_fault(run: Run, site: Site) -> None:
    """Two plugins with one command name break neither the list nor other commands; running it is an error."""
    site.install("promenade-bus-greeter", GREETER)
    site.install("promenade-bus-waver", GREETER)
    listing = run("--help")
    assert listing.exit_code == 0
    assert re.search(r"^  greet +\(", listing.output, re.MULTILINE)
    assert "promenade-bus-waver 1.0" in run("greet").output
    assert run("greet").exit_code == 2


def test_a_plugin_that_cannot_be_imported_is_named_for_an_unknown_command(run: Run, site: Site) -> None:
    """The command line works beside a broken plugin, and names it in the error for an unknown command."""
    site.install("promenade-bus-greeter", "raise SystemExit(3)")
    assert run("--help").exit_code == 0
    result = run("greet")
    assert result.exit_code == 2
    assert "quarantined: greeter (promenade-bus-greeter 1.0): SystemExit: 3" in result.output


def test_a_plugin_cannot_replace_a_built_in_command(run: Run, site: Site) -> None:
    """A built-in command wins over a plugin's of the same name, and the doctor reports the conflict."""
    site.install(
        "promenade-bus-thief",
        """
        @hookimpl
        def promenade_bus_commands():
            return {"topics": Command(help="Steal.", load=lambda: 1 / 0)}
        """,
    )
    assert run("topics").exit_code == 0
    assert "Steal" not in run("--help").output
    findings = run.json("plugins", "doctor", status=1)
    assert any("the command 'topics' is offered by" in finding["what"] for finding in findings)


def test_an_error_of_the_bus_is_one_message(run: Run) -> None:
    """An error of the bus is one message with status 2; --debug adds the traceback."""
    result = run("health", "--config", "missing.yaml")
    assert result.exit_code == 2
    assert result.output.startswith("Error: missing.yaml")
    assert "Traceback" not in result.output
    assert "Traceback" in run("health", "--config", "missing.yaml", "--debug").output
    assert "Traceback" in run("--debug", "health", "--config", "missing.yaml").output


def test_a_command_that_needs_a_bus_says_how_to_name_one(run: Run) -> None:
    """Without --app, --config and the variable, the error explains how to pass a bus."""
    result = run("health")
    assert result.exit_code == 2
    assert "pass --app MODULE:ATTR or --config FILE, or set PROMENADE_BUS_CONFIG" in result.output


def test_the_variable_names_the_configuration(
    run: Run, config: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROMENADE_BUS_CONFIG is the default of --config."""
    monkeypatch.setenv("PROMENADE_BUS_CONFIG", config("bus: {adapter: memory}"))
    assert run("health").exit_code == 0


def test_a_variable_names_the_application(
    run: Run,
    config: Callable[[str], str],
    module: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PROMENADE_BUS_APP is the default of --app and of ``run``; --config replaces it."""
    name = module("bus = open_bus({'app': {'name': 'by-variable'}, 'bus': {'adapter': 'memory'}})")
    monkeypatch.setenv("PROMENADE_BUS_APP", f"{name}:bus")
    monkeypatch.setenv("PROMENADE_BUS_CONFIG", "nowhere.yaml")
    assert "service     by-variable" in run("explain").output
    path = config("app: {name: by-option}\nbus: {adapter: memory}")
    assert "service     by-option" in run("explain", "--config", path).output
    monkeypatch.setenv("PROMENADE_BUS_APP", "app_missing:bus")
    assert "no module named 'app_missing'" in run("run").output


def test_app_and_config_exclude_each_other(run: Run, module: Callable[[str], str]) -> None:
    """An application opens its own configuration, so both options together are refused."""
    name = module("bus = open_bus(CONFIG)")
    result = run("health", "--app", f"{name}:bus", "--config", "app.yaml")
    assert result.exit_code == 2
    assert "use either --app or --config" in result.output


def test_versions_are_shown(run: Run) -> None:
    """--version prints the versions of the bus and of the command line."""
    assert run("--version").output.startswith("promenade-bus 0.")


def test_a_reader_that_goes_away_causes_no_traceback(tmp_path: Path) -> None:
    """Output into a closed pipe ends the command quietly."""
    command = [sys.executable, "-m", "promenade_bus_cli", "topics", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=30)
    assert errors == b""
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the streams")
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_has_closed(tmp_path: Path, closed: str) -> None:
    """A command does its work, and ends with its own status."""
    write = "from promenade_bus_cli.main import main; import sys; main(sys.argv[1:])"
    for arguments, status in (("topics", 0), ("config check none.yaml", 2)):
        command = f'exec "$0" -c "$1" {arguments} {closed}'
        done = subprocess.run(
            ["sh", "-c", command, sys.executable, write],
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (status, False), (arguments, done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead-letters", "list", "--json", "--limit", "many"),
        ("dead-letters", "list", "--older-than", "yesterday", "--json"),
        ("config", "show", "none.yaml", "--json"),
        ("health", "--json", "--nothing"),
    ],
    ids=" ".join,
)
def test_an_option_that_cannot_be_is_told_as_json(run: Run, arguments: tuple[str, ...]) -> None:
    """Whichever option is read first, a program that asks for JSON gets a document."""
    result = run(*arguments)
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert (error["kind"], error["status"]) == ("invalid", 2)
    assert error["message"] in result.stderr


def test_an_interrupt_ends_with_130(run: Run, module: Callable[[str], str]) -> None:
    """Ctrl-C outside of a worker ends the command with one word and status 130."""
    name = module(
        """
        def make():
            raise KeyboardInterrupt
        """
    )
    result = run("health", "--app", f"{name}:make")
    assert result.exit_code == 130
    assert result.output == "interrupted\n"


def test_a_message_commands_no_terminal() -> None:
    """Control characters in a name are replaced; the line breaks of the message itself stay."""
    failed = CommandFailed("nothing was done:\n  - \x1b[2Jgroup\r 'a'")
    assert (
        failed.message
        == "nothing was done:\n  - \N{REPLACEMENT CHARACTER}[2Jgroup\N{REPLACEMENT CHARACTER} 'a'"
    )
