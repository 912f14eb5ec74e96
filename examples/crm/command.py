"""The command ``demo``. The contexts are imported when it runs: its help needs none of them."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bus_core import BusError

if TYPE_CHECKING:
    from crm.demo import Outcome
    from crm.progress import Progress

__all__ = ["CannotRun", "demo"]


class CannotRun(click.ClickException):
    """The bus cannot be opened, or it refused something that the example asked of it."""

    exit_code = 2


@click.command()
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same people and events.")
@click.option(
    "--users",
    default=3000,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many people register.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration of the bus.  [default: app.yaml of the example]",
)
@click.option(
    "--adapter",
    type=click.Choice(["memory", "postgres", "redis", "sqlite"]),
    help="With several processes: postgres and redis on a server that is started for it, sqlite in a new "
    "file.  [default: as configured]",
)
@click.option(
    "--workers",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Workers on postgres, redis and sqlite.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the account as JSON, and nothing else.")
@click.option("--quiet", is_flag=True, help="Print nothing but the last line, and what is wrong.")
def demo(
    seed: int,
    users: int,
    config: Path | None,
    adapter: str | None,
    workers: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run three contexts and an audit on one bus, and account for every event.

    Exits with 1 when the account does not add up, and with 2 when the bus cannot be opened.
    """
    if adapter in ("postgres", "redis", "sqlite"):
        _demo_with_several(adapter, seed, users, config, workers, as_json=as_json, quiet=quiet)
        return
    from crm.demo import run_demo
    from promenade_bus_cli.signals import run_interruptible

    try:
        with _progress(silent=quiet or as_json) as progress:
            outcome = run_interruptible(run_demo(config, seed=seed, users=users, progress=progress))
    except BusError as error:
        raise CannotRun(f"{type(error).__name__}: {error}") from error
    if as_json:
        click.echo(json.dumps(_as_json(outcome), indent=2))
    else:
        _show(outcome, quiet=quiet)
    sys.exit(0 if outcome.adds_up else 1)


def _demo_with_several(
    adapter: str, seed: int, users: int, config: Path | None, workers: int, *, as_json: bool, quiet: bool
) -> None:
    """Several processes, of which one is killed."""
    if config is not None:
        raise click.UsageError(f"--adapter {adapter} brings a configuration of its own; leave --config out")
    from crm.report import print_several, wide_console
    from crm.server import CannotStart
    from crm.several import run_several
    from promenade_bus_cli.signals import run_interruptible

    try:
        with (
            _progress(silent=quiet or as_json) as progress,
            _shared_transport(adapter, progress) as shared,
        ):
            running = run_several(shared, seed=seed, users=users, workers=workers, progress=progress)
            outcome = run_interruptible(running)
    except (BusError, CannotStart) as error:
        raise CannotRun(f"{type(error).__name__}: {error}") from error
    if as_json:
        data = outcome.account.as_data()
        click.echo(json.dumps({**data, "facts": dict(outcome.facts), "redriven": outcome.redriven}, indent=2))
    else:
        if not quiet:
            print_several(wide_console(), outcome)
        for fault in outcome.account.faults:
            click.echo(fault, err=True)
        click.echo(f"lost: {outcome.lost}")
    sys.exit(0 if outcome.adds_up else 1)


@contextmanager
def _shared_transport(adapter: str, progress: Progress) -> Iterator[Mapping[str, Any]]:
    """The configuration of a bus on something that the processes share, which is gone at the end."""
    from crm.server import postgres_server, redis_server
    from crm.several import postgres_config, redis_config, sqlite_config

    if adapter == "postgres":
        progress.step("making a PostgreSQL server")
        with postgres_server() as socket:
            progress.tell(f"it listens on a socket in {socket}")
            yield postgres_config(socket)
        return
    if adapter == "redis":
        with redis_server() as address:
            progress.step(f"a server listens at {address}")
            yield redis_config(address)
        return
    with tempfile.TemporaryDirectory(prefix="promenade-demo-") as directory:
        path = str(Path(directory) / "events.sqlite3")
        progress.step(f"the processes share the file {path}")
        yield sqlite_config(path)


def _show(outcome: Outcome, *, quiet: bool) -> None:
    from crm.report import print_outcome, wide_console

    if not quiet:
        print_outcome(wide_console(), outcome)
    elif outcome.faults:
        for fault in outcome.faults:
            click.echo(fault, err=True)
    click.echo(f"lost: {outcome.lost}")


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        **outcome.account.as_json(),
        "faults": list(outcome.faults),
        "facts": dict(outcome.facts),
        "seconds": round(outcome.seconds, 3),
        "health": {
            "status": outcome.health.status,
            "checks": {
                name: {"status": check.status, "summary": check.summary}
                for name, check in outcome.health.checks.items()
            },
        },
    }


@contextmanager
def _progress(*, silent: bool) -> Iterator[Progress]:
    """Live where standard error is a terminal. Failures that are retried are counted, not logged."""
    from crm.progress import LiveTable, PlainLines, Silent
    from crm.report import wide_console

    console = wide_console(stderr=True)
    progress: Progress
    handler: logging.Handler
    if silent:
        progress, handler = Silent(), logging.NullHandler()
    elif console.is_terminal:
        progress = LiveTable(console)
        handler = progress.log_handler
    else:
        progress, handler = PlainLines(console), logging.StreamHandler()
        handler.setFormatter(logging.Formatter("          log: %(message)s"))
    log = logging.getLogger("promenade")
    before = log.level, log.propagate
    log.setLevel(logging.ERROR)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield progress
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
