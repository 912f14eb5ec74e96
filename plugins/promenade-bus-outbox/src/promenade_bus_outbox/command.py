"""``promenade-bus outbox``: shows an outbox and what was set aside in it, and runs a relay as a process.

Only the command line, which has click, imports this module. The driver, or SQLAlchemy, is imported when a
command runs.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bus_core import AdapterError, BusError, Command

if TYPE_CHECKING:
    from promenade_bus_outbox.connection import OutboxConnection, OutboxDatabase
    from promenade_bus_outbox.outbox_relay import OutboxRelay
    from promenade_bus_outbox.rows import Refusal, Rows
    from promenade_bus_outbox.status import OutboxStatus

T = TypeVar("T")

__all__ = ["OUTBOX", "outbox_command"]


def outbox_command() -> Any:
    """Makes the command."""
    import click

    def where(command: Any) -> Any:
        """The options that select the outbox."""
        for option in (
            click.option(
                "--prefix", default="promenade_", show_default=True, help="How the names of its tables begin."
            ),
            click.option("--schema", metavar="NAME", help="The schema of its tables."),
            click.option(
                "--database",
                metavar="URL",
                envvar="PROMENADE_BUS_OUTBOX",
                show_envvar=True,
                help="Instead of an application: the database, such as postgresql://app@db/app or "
                "sqlite:///app.db; other URLs are those of SQLAlchemy.",
            ),
            click.option(
                "--outbox", "spec", metavar="MODULE:ATTR", help="The Outbox object of an application."
            ),
        ):
            command = option(command)
        return command

    @click.group("outbox")
    def outbox() -> None:
        """Show what waits in an outbox, and deliver it."""

    @outbox.command()
    @where
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    def status(
        spec: str | None, database: str | None, schema: str | None, prefix: str, as_json: bool
    ) -> None:
        """Show how many events wait, for how long, who delivers them, and what holds them up.

        Exit status: 0 also when events wait.
        """
        from promenade_bus_outbox.status import read_status

        found = _used(
            _spec_or_url(spec, database),
            *(spec, schema, prefix),
            lambda connection, rows: read_status(connection, rows.names, rows),
        )
        if as_json:
            click.echo(json.dumps(found.to_dict(), indent=2))
            return
        for line in as_lines(found):
            click.echo(line)

    @outbox.command()
    @where
    @click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    def refused(
        spec: str | None, database: str | None, schema: str | None, prefix: str, limit: int, as_json: bool
    ) -> None:
        """List the events that were set aside, because the bus can never store them, each with the cause.

        The oldest come first. Mend the cause, then say 'promenade-bus outbox retry'.
        """
        found: Sequence[Refusal] = _used(
            _spec_or_url(spec, database),
            *(spec, schema, prefix),
            lambda connection, rows: rows.refusals(connection, limit),
        )
        if as_json:
            click.echo(json.dumps([each.to_dict() for each in found], indent=2))
        elif not found:
            click.echo("no event was set aside")
        else:
            for line in _table_of(found):
                click.echo(line)

    @outbox.command()
    @where
    @click.option("--all", "everything", is_flag=True, help="All events that were set aside.")
    @click.argument("positions", metavar="[POSITION]...", nargs=-1, type=int)
    def retry(
        spec: str | None,
        database: str | None,
        schema: str | None,
        prefix: str,
        everything: bool,
        positions: tuple[int, ...],
    ) -> None:
        """Let the relay deliver events again that were set aside: those at each POSITION, or --all.

        They leave in the order of their positions. Exit status: 1 when one of them was not set aside.
        """
        if everything == bool(positions):
            raise click.UsageError("which events? Give each POSITION, as 'refused' lists it, or --all")
        chosen = None if everything else [*dict.fromkeys(positions)]
        count = _used(
            _spec_or_url(spec, database),
            *(spec, schema, prefix),
            lambda connection, rows: rows.retry(connection, chosen),
        )
        click.echo(f"{count:,} events wait for the relay again")
        if chosen is not None and count < len(chosen):
            raise click.ClickException(
                f"{len(chosen) - count:,} of these positions have no event that was set aside: "
                "see 'promenade-bus outbox refused'"
            )

    @outbox.command()
    @where
    @click.option(
        "--config",
        metavar="FILE",
        envvar="PROMENADE_BUS_CONFIG",
        show_envvar=True,
        help="With --database: the configuration file of the bus that the events go to.",
    )
    def relay(
        spec: str | None, database: str | None, schema: str | None, prefix: str, config: str | None
    ) -> None:
        """Deliver events from the outbox to the bus, until SIGTERM or SIGINT (Ctrl-C).

        Several relays share the work. With --outbox the subscriptions that the application makes are served
        as well.
        """
        from promenade_bus_cli.signals import Signals

        given = _spec_or_url(spec, database)
        signals = Signals(signal.SIGTERM, signal.SIGINT, output=1)

        async def run() -> None:
            async with _opened(given, spec, schema, prefix, config) as opened:
                stop = asyncio.Event()
                signals.take_over(stop.set, "finishing what is under way")
                bus = opened.bus
                async with bus:
                    with _readable(opened.database):
                        await opened.start(relay=True)
                    started = opened.relay
                    try:
                        click.echo(f"delivering the events of {bus.service} to {bus.adapter.name!r}")
                        await stop.wait()
                    finally:
                        await opened.close()
                if started is not None:
                    click.echo(f"delivered {started.delivered:,} events")

        signals.run(run())

    return outbox


OUTBOX: Final = Command(help="Show what waits in an outbox, and deliver it.", load=outbox_command)
"""The command ``outbox``, loaded when it runs."""


def _spec_or_url(spec: str | None, database: str | None) -> Any:
    """The named value, or the one of the URL."""
    import click

    from promenade_bus_cli.apps import find_app

    context = click.get_current_context()
    if (
        spec is not None
        and context.get_parameter_source("database") is click.core.ParameterSource.COMMANDLINE
    ):
        raise click.UsageError("--outbox and --database exclude each other: an application has its own")
    if spec is not None:
        return find_app(spec).value
    if database is None:
        raise click.UsageError("which outbox? Give --outbox MODULE:ATTR or --database URL")
    return database


@asynccontextmanager
async def _connected(url: str, schema: str | None, prefix: str) -> AsyncIterator[OutboxDatabase]:
    """The database of a URL: by a driver alone, or else by SQLAlchemy, which may have another driver."""
    from promenade_bus_outbox.drivers import DriverDatabase
    from promenade_bus_outbox.errors import MissingExtra

    database, missing = None, None
    try:
        database = DriverDatabase.from_url(url, prefix=prefix, schema=schema)
    except MissingExtra as error:
        missing = error
    if database is None:
        async with AsyncExitStack() as stack:
            try:
                other = await stack.enter_async_context(_connected_by_sqlalchemy(url, schema, prefix))
            except BusError as error:
                raise missing or error from error
            yield other
        return
    try:
        yield database
    finally:
        database.close()


@asynccontextmanager
async def _connected_by_sqlalchemy(
    url: str, schema: str | None, prefix: str
) -> AsyncIterator[OutboxDatabase]:
    try:
        from sqlalchemy import MetaData, create_engine
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
        from sqlalchemy.orm import sessionmaker
    except ImportError as error:
        raise BusError(
            "the database URL cannot be used: it begins with sqlite:/// or postgresql://; for other drivers "
            "and options: pip install 'promenade-bus-outbox[sqlalchemy]'"
        ) from error
    from promenade_bus_outbox.database import Database
    from promenade_bus_outbox.tables import outbox_tables

    sessions: Any
    try:
        if make_url(url).get_dialect().is_async:
            async_engine = create_async_engine(url)
            sessions, engine = async_sessionmaker(async_engine), async_engine.sync_engine
        else:
            async_engine, engine = None, create_engine(url)
            sessions = sessionmaker(engine)
    except (SQLAlchemyError, ImportError) as error:
        raise BusError(f"the database URL cannot be used: {type(error).__name__}: {error}") from error
    try:
        yield Database(sessions, outbox_tables(MetaData(), prefix=prefix, schema=schema))
    finally:
        if async_engine is not None:
            await async_engine.dispose()
        else:
            engine.dispose()


@asynccontextmanager
async def _opened(
    given: Any, spec: str | None, schema: str | None, prefix: str, config: str | None
) -> AsyncIterator[OutboxRelay]:
    """The selected outbox, whose bus is not started."""
    from bus_core import open_bus
    from promenade_bus_outbox.outbox_relay import OutboxRelay

    if spec is not None:
        outbox = _checked(given, spec)
        if not outbox.bus.subscriptions:
            _refuse_memory(outbox)
        yield outbox
        return
    if config is None:
        raise BusError("to which bus? Give --config FILE with --database URL")
    async with _connected(given, schema, prefix) as database:
        outbox = OutboxRelay(open_bus(config), database)
        _refuse_memory(outbox)
        yield outbox


def _checked(value: Any, spec: str) -> OutboxRelay:
    from promenade_bus_outbox.outbox_relay import OutboxRelay

    if not isinstance(value, OutboxRelay):
        raise BusError(f"{spec} is an object of type {type(value).__name__}; it has to be an Outbox")
    return value


def _refuse_memory(outbox: OutboxRelay) -> None:
    adapter = outbox.bus.adapter
    if adapter.features.in_process:
        raise BusError(
            f"the bus runs on {adapter.name!r}, which hands events to handlers of this process only, and "
            "there are none: run the relay inside of the application, or choose an adapter that processes "
            "share"
        )


def _used(
    given: Any,
    spec: str | None,
    schema: str | None,
    prefix: str,
    work: Callable[[OutboxConnection, Rows], T],
) -> T:
    """Calls a function with the selected outbox, and returns its result."""
    from promenade_bus_cli.signals import run_interruptible
    from promenade_bus_outbox.connection import check
    from promenade_bus_outbox.rows import Rows

    async def use(database: OutboxDatabase) -> T:
        rows = Rows(database.names, database.dialect)
        with _readable(database):
            await check(database)
            return await database.run(lambda connection: work(connection, rows))

    async def run() -> T:
        if spec is not None:
            return await use(_checked(given, spec).database)
        async with _connected(given, schema, prefix) as database:
            return await use(database)

    return run_interruptible(run())


@contextmanager
def _readable(database: OutboxDatabase) -> Iterator[None]:
    """Makes an error of the driver one that the command line shows."""
    try:
        yield
    except database.errors as error:
        raise AdapterError(f"the database cannot be read: {type(error).__name__}: {error}") from error


def as_lines(status: OutboxStatus) -> list[str]:
    """A table for people."""
    from bus_core.config import format_duration
    from bus_core.runtime import printable

    def age(seconds: float) -> str:
        return format_duration(float(round(seconds)))

    lines = [f"{status.waiting:,} events wait, the oldest for {age(status.oldest)}"]
    if status.blocked_by is not None:
        lines.append(printable(f"{status.held:,} of them wait for {status.blocked_by}", None))
    if status.kept:
        lines.append(f"{status.kept:,} delivered events are kept")
    lines.append(
        f"relays: {status.relays}"
        if status.relays
        else "no relay runs; start one with 'promenade-bus outbox relay'"
    )
    shown = [each for each in status.partitions if each.waiting]
    if shown:
        lines.append("")
        rows = [["PARTITION", "WAITING", "OLDEST", "RELAY"]]
        rows += [
            [str(each.partition), f"{each.waiting:,}", age(each.oldest), each.relay or "-"] for each in shown
        ]
        lines += _table(rows)
    if status.refused:
        lines += ["", f"{status.refused:,} events were refused by the bus for good, and were set aside:"]
        lines += _table_of(status.refusals)
        lines.append("mend the cause, and deliver them with 'promenade-bus outbox retry'")
    return lines


def _table_of(refusals: Sequence[Refusal]) -> list[str]:
    from bus_core.runtime import printable

    rows = [["POSITION", "TOPIC", "EVENT", "CAUSE"]]
    rows += [
        [str(each.position), *(printable(text, None) for text in (each.topic, each.event_id, each.cause))]
        for each in refusals
    ]
    return _table(rows)


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
