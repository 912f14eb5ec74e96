"""``promenade-bus replay``: hands events that the storage keeps to one subscription again."""

from __future__ import annotations

import asyncio
import secrets
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import attrs
import click

from bus_core import BusError
from bus_core.abc import Administration, Replayed, ReplayFilter
from promenade_bus_cli.administered import run_with_administration
from promenade_bus_cli.apps import App
from promenade_bus_cli.failures import INTERRUPTED, CommandFailed, confirm
from promenade_bus_cli.letters import moment
from promenade_bus_cli.options import app_option, config_option, debug_option, json_option
from promenade_bus_cli.output import clean, counted, print_json, remark
from promenade_bus_cli.progress import Progress
from promenade_bus_cli.signals import Signals

__all__ = ["replay"]

_AT_ONCE: Final = 500


@click.command()
@click.argument("subscription")
@click.option("--from", "since", metavar="AGE|TIME", type=moment, help="Events stored at that time or later.")
@click.option(
    "--until", metavar="AGE|TIME", type=moment, help="Events stored before; by default before the start."
)
@click.option("--event-id", "event_ids", metavar="UUID", type=click.UUID, multiple=True, help="One event.")
@click.option("--topic", metavar="TOPIC|PATTERN", help="Events of a topic, or of those of a pattern.")
@click.option("--all", "everything", is_flag=True, help="Every kept event.")
@click.option("--resume", metavar="ID", help="Continue the replay that printed this command.")
@click.option("--dry-run", is_flag=True, help="Print how many events are selected, and replay none.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@app_option
@config_option
@json_option
@debug_option
@click.pass_context
def replay(
    ctx: click.Context,
    subscription: str,
    since: datetime | None,
    until: datetime | None,
    event_ids: tuple[UUID, ...],
    topic: str | None,
    everything: bool,
    resume: str | None,
    dry_run: bool,
    yes: bool,
    app: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Hand kept events to one subscription again, and to no other.

    SUBSCRIPTION is a name, as in the code. Its handler sees 'delivery.redriven'. Events that the subscription
    has not settled are passed over, because it gets them anyway. Several options select events that fulfil
    all of them.
    """
    is_selective = bool(since or event_ids or topic)
    if everything is is_selective:
        raise CommandFailed(
            "replay which events? Select them with --from, --event-id or --topic, or all with --all"
        )
    where = ReplayFilter(
        topic=topic,
        stored_since=since,
        stored_before=until or datetime.now(UTC),
        event_ids=frozenset(map(str, event_ids)) or None,
    )
    bus = ["--app", app] if app else ["--config", str(config)]
    run = _Replay(subscription, where, resume, bus, dry_run=dry_run, yes=yes)
    signals = Signals()

    async def work(opened: App, admin: Administration) -> None:
        await run.run(f"{opened.bus.service}.{subscription}", admin, signals)

    run_with_administration(app, config, work, signals, "replay")
    if as_json:
        print_json(run.as_data())
    else:
        for line in run.lines():
            click.echo(line)
    if run.is_interrupted:
        ctx.exit(INTERRUPTED)


@attrs.define(eq=False)
class _Replay:
    """One run of the command."""

    subscription: str
    where: ReplayFilter
    resumed: str | None
    bus: Sequence[str]
    dry_run: bool = attrs.field(kw_only=True)
    yes: bool = attrs.field(kw_only=True)
    selected: Replayed = attrs.field(init=False, factory=Replayed)
    done: Replayed = attrs.field(init=False, factory=Replayed)
    is_interrupted: bool = attrs.field(init=False, default=False)
    resume: str | None = attrs.field(init=False, default=None)
    _stop: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)

    async def run(self, group: str, admin: Administration, signals: Signals) -> None:
        """Counts, asks, and replays step by step."""
        self.selected = await admin.replay(group, self.where, replay_id=None, limit=_AT_ONCE)
        if self.dry_run or not (self.selected.events or self.resumed):
            return
        await self._ask()
        replay_id = self.resumed or secrets.token_hex(6)
        self.resume = self._command(replay_id)
        remark(f"if it is cut short, go on with: {self.resume}")
        signals.take_over(self._stop.set, "stopping after this step", self.sentence)
        try:
            with Progress(self.selected.events) as progress:
                while not (self.done.is_done or self._stop.is_set()):
                    before = self.done.events
                    self.done = await admin.replay(group, self.where, replay_id=replay_id, limit=_AT_ONCE)
                    progress.advance(self.done.events - before, self.sentence())
        except BusError:
            remark(f"cut short: {self.sentence()}")
            raise
        self.is_interrupted = not self.done.is_done

    async def _ask(self) -> None:
        if self.yes:
            return
        question = f"hand {counted(self.selected.events, 'event')} to {self.subscription!r} again?"
        await confirm(question)

    def _command(self, replay_id: str) -> str:
        """The command that goes on where this one ends."""
        where = self.where
        words = ["promenade-bus", "replay", self.subscription, *self.bus, "--resume", replay_id]
        for name, value in (("--from", where.stored_since), ("--until", where.stored_before)):
            if value is not None:
                words += [name, value.isoformat()]
        for event_id in sorted(where.event_ids or ()):
            words += ["--event-id", event_id]
        if where.topic is not None:
            words += ["--topic", where.topic]
        if not (where.stored_since or where.event_ids or where.topic):
            words.append("--all")
        return clean(shlex.join(words))

    def sentence(self) -> str:
        """Its progress."""
        return f"{counted(self.done.events, 'event')} handed to {self.subscription!r} again"

    def lines(self) -> list[str]:
        """Everything that it has to say, for people."""
        if self.dry_run:
            told = [f"would replay {counted(self.selected.events, 'event')}; nothing was done"]
        else:
            told = [self.sentence()]
        unsettled = self.selected.unsettled if self.dry_run or not self.resume else self.done.unsettled
        if unsettled:
            told.append(f"{unsettled:,} passed over: the subscription has not settled them yet")
        return told

    def as_data(self) -> dict[str, Any]:
        """The same as plain data."""
        passed = self.done if self.resume else self.selected
        return {
            "subscription": self.subscription,
            "dry_run": self.dry_run,
            "selected": self.selected.events,
            "replayed": self.done.events,
            "unsettled": passed.unsettled,
            "interrupted": self.is_interrupted,
            "resume": self.resume,
        }
