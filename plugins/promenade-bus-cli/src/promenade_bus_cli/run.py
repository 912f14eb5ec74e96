"""``promenade-bus run``: a worker, or several, or one that starts again when its code changes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

import click

from promenade_bus_cli.apps import find_app
from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.link import Link
from promenade_bus_cli.logs import FORMATS, LEVELS, LogFormat, configure_logging, line_of
from promenade_bus_cli.options import APP_VARIABLE, DEBUG, debug_option, duration
from promenade_bus_cli.signals import Signals
from promenade_bus_cli.worker import RunOptions, work

__all__ = ["run"]


@click.command()
@click.argument("app", metavar="MODULE:ATTR", envvar=APP_VARIABLE)
@click.option(
    "--shutdown-timeout",
    type=duration,
    metavar="DURATION",
    help="The time limit of the drain, such as 1m30s. Default: 'shutdown_timeout' of the configuration.",
)
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Serve probes and metrics at this address, by default on 127.0.0.1. Needs promenade-bus-http.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Run N processes, and start again those that die.",
)
@click.option(
    "--reload", "reloads", is_flag=True, help="Start again when the code changes. Needs watchfiles."
)
@click.option(
    "--reload-dir",
    "directories",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="A directory to watch; may be repeated. Default: the working directory.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="Write the log of this level and above to stderr. Default with --log-format: info.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    help="Write the log, and the lines of this command, as text or as one JSON object a line.",
)
@click.option("--link", type=int, hidden=True, help="The file descriptor that leads to the parent.")
@click.option("--one-of-many", is_flag=True, hidden=True, help="Others run beside this process.")
@debug_option
@click.pass_context
def run(
    ctx: click.Context,
    app: str,
    shutdown_timeout: float | None,
    http: str | None,
    processes: int | None,
    reloads: bool,
    directories: tuple[str, ...],
    log_level: str | None,
    log_format: LogFormat | None,
    link: int | None,
    one_of_many: bool,
) -> None:
    """Run an application's bus as a worker, until SIGTERM or SIGINT (Ctrl-C).

    MODULE:ATTR is an unstarted Bus or SyncBus, or a function that returns one. The default is in the
    environment variable PROMENADE_BUS_APP. The first signal drains within the shutdown timeout, a second
    signal stops at once. Exit status: 0 after a clean drain, 1 when an event was abandoned, 128 + the
    signal's number after a stop at once; with --processes the worst of all.
    """
    configure_logging(log_level, log_format)
    options = RunOptions(
        shutdown_timeout=shutdown_timeout,
        http=http,
        log_level=log_level,
        log_format=log_format,
        debug=bool(ctx.meta.get(DEBUG)),
    )
    if reloads or processes is not None:
        ctx.exit(_run_elsewhere(app, processes, directories if reloads else None, options))
    if directories:
        raise CommandFailed("--reload-dir needs --reload")
    signals = Signals(
        signal.SIGTERM,
        signal.SIGINT,
        output=2 if log_format == "json" else 1,
        line=line_of(log_format),
        is_led=link is not None,
    )
    linked = None if link is None else Link(link, is_one_of_many=one_of_many)
    ctx.exit(signals.run(work(find_app(app), options, signals, linked)))


def _run_elsewhere(
    app: str, processes: int | None, directories: tuple[str, ...] | None, options: RunOptions
) -> int:
    """Runs workers in processes of their own."""
    from promenade_bus_cli.processes import require_processes

    if processes is not None and directories is not None:
        raise CommandFailed("use either --reload or --processes: --reload is for one process on a laptop")
    running: Coroutine[Any, Any, int]
    if processes is not None:
        require_processes("--processes")
        from promenade_bus_cli.supervisor import supervise

        running = supervise(app, processes, options)
    else:
        require_processes("--reload")
        from promenade_bus_cli.reloading import reload

        running = reload(app, directories or (".",), options)
    return asyncio.run(running)
