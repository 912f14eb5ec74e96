"""Shared parts of the commands about dead letters: the store of a bus, filters, and what may be shown."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import click

from bus_core import (
    Bus,
    BusError,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterPage,
    DeadLetterStore,
    Message,
)
from bus_core.config import parse_duration
from promenade_bus_cli.apps import App, run_with_app
from promenade_bus_cli.output import remark
from promenade_bus_cli.showing import shown_event
from promenade_bus_cli.signals import Signals

__all__ = ["Letters", "age_of", "filter_options", "moment", "run_with_letters"]

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

_AT_ONCE: Final = 500
"""Letters of a page: what the command holds at once, however many there are."""


@dataclass(frozen=True)
class Letters:
    """The dead letters of a bus whose adapter is started; no subscription is open."""

    bus: Bus

    @property
    def store(self) -> DeadLetterStore:
        """Where they are."""
        return self.bus.adapter.dead_letters

    async def pages(self, where: DeadLetterFilter) -> AsyncIterator[DeadLetterPage]:
        """Every letter that the filter selects, a page at a time."""
        cursor: str | None = None
        while True:
            page = await self.store.page(where, cursor, _AT_ONCE)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    def data_of(self, letter: DeadLetter) -> dict[str, Any]:
        """The displayable part of a letter's event; see ``shown_event``."""
        return shown_event(self.bus, Message("", letter.topic, letter.key, letter.body))


def run_with_letters(
    spec: str | None,
    config: str | None,
    use: Callable[[Letters], Coroutine[Any, Any, R]],
    signals: Signals | None = None,
) -> R:
    """Runs a coroutine on the dead letters of ``--app`` or ``--config``.

    Only the adapter is started: no subscription of the application is opened, and nothing is handled.
    """

    async def with_adapter(app: App) -> R:
        adapter = app.bus.adapter
        await adapter.start()
        try:
            if app.stays_inside:
                remark(
                    f"note: the adapter {adapter.name!r} keeps its dead letters inside of the process that "
                    "left them, so there are none for this command to see"
                )
            return await use(Letters(app.bus))
        finally:
            with suppress(BusError):  # what failed before says more
                await adapter.close()

    return run_with_app(spec, config, with_adapter, signals)


# --- filters ----------------------------------------------------------------------------------------------


def moment(text: str) -> datetime:
    """A time, from an ISO 8601 text, or from how long ago it was: the type of an option."""
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a duration, such as 90s, 2h or 1d, nor a time, such as 2026-05-01T12:00:00Z"
        ) from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


_OPTIONS: Final = (
    click.option("--topic", metavar="TOPIC|PATTERN", help="Of one topic, or of those that a pattern covers."),
    click.option("--subscription", metavar="NAME", help="Of one subscription."),
    click.option("--error", metavar="TEXT", help="With TEXT in the reason, the last error, or its place."),
    click.option("--older-than", metavar="AGE|TIME", type=moment, help="That died before; as in 2h."),
    click.option("--newer-than", metavar="AGE|TIME", type=moment, help="That died since."),
    click.option("--event-id", metavar="UUID", type=click.UUID, help="Of one event."),
)


def filter_options(command: F) -> F:
    """Adds the options that select letters; the command gets them as ``where``."""

    @functools.wraps(command)
    def run(
        *arguments: Any,
        topic: str | None,
        subscription: str | None,
        error: str | None,
        older_than: datetime | None,
        newer_than: datetime | None,
        event_id: UUID | None,
        **others: Any,
    ) -> Any:
        where = DeadLetterFilter(
            topic=topic,
            subscription=subscription,
            error=error or None,
            dead_before=older_than,
            dead_after=newer_than,
            event_id=event_id,
        )
        return command(*arguments, where=where, **others)

    made: Any = run
    for option in reversed(_OPTIONS):
        made = option(made)
    return cast(F, made)


# --- showing ----------------------------------------------------------------------------------------------


def age_of(moment: datetime) -> str:
    """The age of something, as in ``3h12m``; to the second, and of days to the hour."""
    seconds = max(0, round((datetime.now(UTC) - moment).total_seconds()))
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
