"""The group ``promenade-bus``: built-in commands, plugin commands, and the printing of errors."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.exceptions import Exit

from bus_core import BusError, Command
from bus_core.events import nearest_names
from bus_core.plugins import Plugins, discover
from promenade_bus_cli.builtin import COMMANDS
from promenade_bus_cli.failures import (
    INTERRUPTED,
    CommandFailed,
    Interrupted,
    failure_as_data,
    leave_now,
    status_of,
)
from promenade_bus_cli.loading import load_command
from promenade_bus_cli.options import DEBUG, debug_option
from promenade_bus_cli.output import print_json

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["CommandLine", "cli", "main"]

_PLUGINS = "promenade_bus_cli.plugins"
_ARGUMENTS = "promenade_bus_cli.arguments"
_ELSEWHERE = {
    "demo": "it comes with the repository's example application: run 'make demo' in a checkout of it",
    "new": "it comes with promenade-bus-new: run pip install 'promenade-bus[new]'",
}


class CommandLine(click.Group):
    """Looks up built-in commands first, so that no plugin can replace or break one.

    Help and shell completion use the help line that a plugin gives with a command; they load no command.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parses the arguments, and prints help if asked."""
        given = [*args]
        with _interrupts_told():
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[_ARGUMENTS] = given
        return context

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of the commands, sorted."""
        return sorted({*COMMANDS, *_installed(ctx).commands.names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads and returns a command, or returns None for an unknown name."""
        if cmd_name in COMMANDS:
            command: click.Command = COMMANDS[cmd_name].load()
            return command
        if cmd_name not in _installed(ctx).commands:
            return None
        return load_command(_installed(ctx).commands.select(cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command that the arguments name; for an unknown one, suggests the nearest name."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise CommandFailed(self._unknown(ctx, name))
        return super().resolve_command(ctx, args)

    def _unknown(self, ctx: click.Context, name: str) -> str:
        text = f"no command named {name!r}"
        nearest = nearest_names(name, self.list_commands(ctx), limit=1)
        if name in _ELSEWHERE:
            text += f"; {_ELSEWHERE[name]}"
        elif nearest:
            text += f"; did you mean {nearest[0]!r}?"
        else:
            text += f"; commands are: {', '.join(self.list_commands(ctx))}"
        broken = [plugin for plugin in _installed(ctx).installed if plugin.status == "quarantined"]
        return text + "".join(f"\n  quarantined: {plugin}" for plugin in broken)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands. A command that several plugins offer is listed with that fault."""
        with formatter.section("Commands"):
            formatter.write_dl([*self._listed(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Returns the commands and options that begin with the typed text."""
        from click.shell_completion import CompletionItem

        completions = [
            CompletionItem(name, help=text) for name, text in self._listed(ctx) if name.startswith(incomplete)
        ]
        return [*completions, *click.Command.shell_complete(self, ctx, incomplete)]

    def _listed(self, ctx: click.Context) -> Iterator[tuple[str, str]]:
        """Yields every visible command with its help line."""
        for name in self.list_commands(ctx):
            try:
                command: Command = COMMANDS.get(name) or _installed(ctx).commands.select(name).value
            except BusError as error:
                yield name, f"({error})"
                continue
            if not command.hidden:
                yield name, command.help

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; turns an error of the bus into one message and an exit status.

        A command that prints JSON prints a JSON document about the failure as well.
        """
        try:
            with _interrupts_told():
                return super().invoke(ctx)
        except click.UsageError as error:
            if _wants_json(ctx):
                print_json(failure_as_data(error.format_message(), error.exit_code))
            raise
        except (CommandFailed, BusError) as error:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            failed = (
                error if isinstance(error, CommandFailed) else CommandFailed(str(error), status_of(error))
            )
            if _wants_json(ctx):
                print_json(failure_as_data(failed.message, failed.exit_code))
            raise failed from error


def _wants_json(ctx: click.Context) -> bool:
    """True when the arguments have ``--json``, which may not be parsed yet when another one is refused."""
    return "--json" in takewhile(lambda argument: argument != "--", ctx.meta[_ARGUMENTS])


@contextmanager
def _interrupts_told() -> Iterator[None]:
    """Prints a word on Ctrl-C, unless the command did, and exits with 130. click would exit with 1."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not isinstance(error, Interrupted):
            click.echo("interrupted", err=True)
        raise Exit(INTERRUPTED) from None


def _installed(ctx: click.Context) -> Plugins:
    found: Plugins | None = ctx.meta.get(_PLUGINS)
    if found is None:
        with redirect_stdout(sys.stderr):  # a plugin may print when it is imported
            found = ctx.meta[_PLUGINS] = discover(kinds=("command",))
    return found


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(
            f"promenade-bus {version('promenade-bus')}, promenade-bus-cli {version('promenade-bus-cli')}"
        )
        ctx.exit()


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the versions of the bus and of this command line.",
)
@debug_option
def cli() -> None:
    """Run and inspect an application on Promenade Bus, and publish events to it.

    Exit status: 0 for success, 1 when part of the work failed, 130 after Ctrl-C. It is 2 when the command,
    the configuration or the application is invalid, 3 when the bus is unhealthy, 4 when the server or the
    storage cannot be reached.
    """


def _open_closed_streams() -> None:
    """Lets output go nowhere that the caller has closed, as with ``>&-``: Python has None in its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends


def main(arguments: Sequence[str] | None = None, prog_name: str = "promenade-bus") -> NoReturn:
    """Runs the console script, under this name in its help, and ends the process."""
    _open_closed_streams()
    status: int | str | None = 0
    try:
        cli.main(arguments, prog_name=prog_name)
    except SystemExit as end:
        status = end.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of stdout is gone. Python must not write to it again while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or 1
    if status == INTERRUPTED:
        leave_now(INTERRUPTED)  # do not wait for threads
    sys.exit(status)


if __name__ == "__main__":
    main()
