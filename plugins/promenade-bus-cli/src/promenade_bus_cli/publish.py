"""``promenade-bus publish``: one event from options, or many from JSON Lines of CloudEvents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, BinaryIO

import click

from bus_core import BusClosed, BusError, Event, Topic
from promenade_bus_cli.accounts import Account, print_abandoned, print_account
from promenade_bus_cli.apps import App, run_with_app
from promenade_bus_cli.documents import DocumentReader, EventOptions
from promenade_bus_cli.failures import REFUSED, CommandFailed, leave_now
from promenade_bus_cli.lines import Line, read_lines
from promenade_bus_cli.options import app_option, config_option, debug_option, json_option
from promenade_bus_cli.output import remark
from promenade_bus_cli.progress import Progress, size_of
from promenade_bus_cli.signals import Signals, cancel_current_task

__all__ = ["publish"]

_BATCH = 100


@click.command()
@click.option("--topic", metavar="NAME", help="The topic; with --file, the topic of lines without one.")
@click.option("--aggregate-id", metavar="ID", help="The id of the event's aggregate; 'new' makes a UUID.")
@click.option("--data", metavar="JSON", help="The event's fields as a JSON object.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="One field; may be repeated.")
@click.option("--type", "event_type", metavar="NAME", help="The event type, for a topic without event class.")
@click.option(
    "--file",
    "source",
    metavar="PATH|-",
    type=click.File("rb", lazy=False),
    help="JSON Lines of CloudEvents: a file, or '-' for stdin.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, publish nothing.")
@app_option
@config_option
@json_option
@debug_option
@click.pass_context
def publish(
    ctx: click.Context,
    topic: str | None,
    aggregate_id: str | None,
    data: str | None,
    settings: tuple[str, ...],
    event_type: str | None,
    source: BinaryIO | None,
    dry_run: bool,
    app: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Publish one event, or a file of events.

    One event: --topic, --aggregate-id, and its fields as --data or --set. Many: --file with one CloudEvent
    in JSON on each line; its extension 'topic' names its topic. A bad line is reported with its number; the
    other lines are published. With --app the application's handlers run in this process, and the command
    prints an account when they are done. Ctrl-C prints the progress and closes the bus; a second Ctrl-C stops
    at once. Exit status 1 when a line failed or an event was abandoned, 130 after Ctrl-C.
    """
    options = EventOptions(topic, aggregate_id, data, settings, event_type)
    if source is not None and options.describe_an_event:
        raise CommandFailed("--file has whole events: leave out --aggregate-id, --data, --set and --type")
    if source is None and topic is None:
        raise CommandFailed("no event given: pass --topic NAME with the event's fields, or --file PATH")

    signals = Signals()

    async def published(opened: App) -> Account:
        publishing = _Publishing(opened, options, source, dry_run=dry_run, as_json=as_json)
        limit = f"closing, for at most {opened.bus.config.shutdown_timeout:g} s"
        signals.take_over(cancel_current_task(), limit, publishing.progress)
        return await publishing.run()

    account = run_with_app(app, config, published, signals)
    print_account(account, as_json=as_json)
    ctx.exit(0 if account.is_clean else REFUSED)


class _Publishing:
    """One run of the command on a bus."""

    def __init__(
        self, app: App, options: EventOptions, source: BinaryIO | None, *, dry_run: bool, as_json: bool
    ) -> None:
        self._as_json = as_json
        self._app = app
        self._options = options
        self._source = source
        self._dry_run = dry_run
        self._reader = DocumentReader(app.bus.parts, options.topic)
        self._account = Account(app.bus, dry_run=dry_run, has_handlers=app.has_handlers)
        self._under_way: asyncio.Future[None] | None = None
        self._events_under_way = 0
        self._is_interrupted = False

    def progress(self) -> str:
        """Returns the progress, including events under way."""
        under_way = f", {self._events_under_way:,} under way" if self._events_under_way else ""
        return f"{self._account.sentence()}{under_way}"

    async def run(self) -> Account:
        if self._source is None:
            # Before the start: reporting wrong options needs no connection.
            topic, event = self._reader.from_options(self._options)
            work = self._publish_one(topic, event)
        else:
            work = self._publish_lines(self._source)
        try:
            await self._started(work)
        except asyncio.CancelledError:
            remark(f"interrupted: {self._account.sentence()}")
            print_abandoned(self._account)
            raise
        if self._account.is_abandoned:
            print_account(self._account, as_json=self._as_json)
            leave_now(REFUSED)
        return self._account

    async def _started(self, work: Coroutine[Any, Any, None]) -> None:
        if self._dry_run:
            await work
            return
        if self._app.stays_inside and not self._app.has_handlers:
            remark(
                f"warning: the adapter {self._app.bus.adapter.name!r} stores nothing outside its process, "
                "so nobody receives these events; pass --app MODULE:ATTR to run the application's "
                "handlers in this process"
            )
        try:
            await self._app.start()
        except BaseException:
            work.close()
            raise
        try:
            await work
        except asyncio.CancelledError:
            self._is_interrupted = True
            raise
        finally:
            await self._close()

    async def _close(self) -> None:
        """Closes the bus, which settles events under way. Ctrl-C does not cancel this."""
        closing = asyncio.ensure_future(self._app.close())
        try:
            await asyncio.shield(closing)
        finally:
            await asyncio.wait((closing, self._under_way or closing))
            if closing.exception() is None:
                self._account.closed(closing.result())

    async def _to_the_end(self, publishing: Coroutine[Any, Any, None]) -> None:
        """Publishes and counts the results. Ctrl-C does not cancel this: closing the bus ends it."""
        self._under_way = asyncio.ensure_future(publishing)
        await asyncio.shield(self._under_way)

    async def _publish(self, items: Sequence[tuple[Topic[Any], Event]]) -> Sequence[Exception | None]:
        if not items or self._dry_run:
            return [None] * len(items)
        self._events_under_way = len(items)
        try:
            return await self._app.publish(items)
        finally:
            self._events_under_way = 0

    async def _publish_one(self, topic: Topic[Any], event: Event) -> None:
        async def publish() -> None:
            (error,) = await self._publish([(topic, event)])
            if error is None:
                self._account.accepted(event)
            elif not self._is_interrupted:
                raise error

        await self._to_the_end(publish())

    async def _publish_lines(self, source: BinaryIO) -> None:
        with Progress(size_of(source)) as progress:
            async for batch in _batches(source):
                await self._to_the_end(self._publish_batch(batch, progress))

    async def _publish_batch(self, lines: Sequence[Line], progress: Progress) -> None:
        ready: list[tuple[Line, Topic[Any], Event]] = []
        for line in lines:
            try:
                topic, event = self._reader.from_line(line)
            except BusError as error:
                self._refuse(line, error, progress)
            else:
                ready.append((line, topic, event))
        results = await self._publish([(topic, event) for _, topic, event in ready])
        for (line, _, event), refusal in zip(ready, results, strict=True):
            if refusal is None:
                self._account.accepted(event)
            elif not (self._is_interrupted and isinstance(refusal, BusClosed)):  # not attempted
                self._refuse(line, refusal, progress)
        progress.advance(sum(line.size for line in lines), self._account.sentence())

    def _refuse(self, line: Line, error: Exception, progress: Progress) -> None:
        fault = self._account.refused(line.number, self._reader.names_in(line), error)
        progress.report(fault.sentence())


async def _batches(source: BinaryIO) -> AsyncIterator[list[Line]]:
    """Yields lines as they arrive, in batches of the lines available; never waits to fill a batch."""
    async for lines in read_lines(source):
        for start in range(0, len(lines), _BATCH):
            yield lines[start : start + _BATCH]
