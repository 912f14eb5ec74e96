"""Redriving and purging many letters: page by page, none twice, to be continued after an interrupt."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import attrs

from bus_core import BusError, DeadLetter, DeadLetterFilter, UnknownSubscription
from promenade_bus_cli.failures import CommandFailed, confirm
from promenade_bus_cli.letters import Letters
from promenade_bus_cli.output import clean, counted, remark
from promenade_bus_cli.progress import Progress
from promenade_bus_cli.signals import Signals

__all__ = ["Removal", "Removed"]

_DONE: Final = {"redrive": "redriven", "purge": "purged"}


@attrs.define
class Removed:
    """The results of the selected letters.

    ``kept`` are those that could not be moved, by subscription and topic, with the reason. ``passed_over``
    were gone already: somebody else has been faster. ``later`` died after the command began, and were left.
    """

    action: Literal["redrive", "purge"]
    dry_run: bool
    selected: int = 0
    done: int = 0
    seen: int = 0
    kept: dict[tuple[str, str], tuple[int, str]] = attrs.field(factory=dict)
    later: int = 0
    interrupted: bool = False
    resume: str = ""

    @property
    def passed_over(self) -> int:
        """Letters that were gone when their turn came."""
        return self.seen - self.done - sum(count for count, _ in self.kept.values())

    def sentence(self) -> str:
        """Its progress."""
        return f"{self.done:,} of {counted(self.selected, 'dead letter')} {_DONE[self.action]}"

    def lines(self) -> list[str]:
        """All there is to say, for people."""
        if self.dry_run:
            return [f"would {self.action} {counted(self.selected, 'dead letter')}; nothing was done"]
        told = [self.sentence()]
        if self.passed_over:
            told.append(f"{self.passed_over:,} were gone when their turn came")
        for (subscription, topic), (count, reason) in self.kept.items():
            told.append(clean(f"{count:,} of {subscription!r} on {topic!r} were kept: {reason}"))
        if self.later:
            told.append(f"{self.later:,} died since this began, and were left alone")
        return told

    def as_data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "action": self.action,
            "dry_run": self.dry_run,
            "selected": self.selected,
            _DONE[self.action]: self.done,
            "gone": self.passed_over,
            "kept": [
                {"subscription": subscription, "topic": topic, "count": count, "reason": reason}
                for (subscription, topic), (count, reason) in self.kept.items()
            ],
            "later": self.later,
            "interrupted": self.interrupted,
            "resume": self.resume or None,
        }


class Removal:
    """One run of ``redrive`` or ``purge``.

    It covers the letters that existed when it began, so a letter that comes back meanwhile is not taken
    again. To resume later, pass the same time.
    """

    def __init__(
        self,
        action: Literal["redrive", "purge"],
        where: DeadLetterFilter,
        letter_ids: Sequence[str],
        *,
        everything: bool,
        dry_run: bool,
        yes: bool,
        bus: Sequence[str] = (),
    ) -> None:
        selective = where != DeadLetterFilter()
        if everything is bool(selective or letter_ids):
            raise CommandFailed(
                f"{action} which letters? Name their IDs, or select them by options such as --subscription; "
                "--all alone means every one"
            )
        self._yes = yes
        self._stop = asyncio.Event()
        self._bus = bus
        self._named = tuple(letter_ids)
        self._wanted = where
        if letter_ids:
            self._where = attrs.evolve(where, ids=frozenset(letter_ids))
        else:
            self._where = attrs.evolve(where, dead_before=where.dead_before or datetime.now(UTC))
        self._removed = Removed(action, dry_run)

    async def run(self, letters: Letters, signals: Signals) -> Removed:
        """Counts, asks, and does it."""
        removed = self._removed
        removed.selected = await letters.store.count(self._where)
        if removed.dry_run or not removed.selected:
            return removed
        await self._ask()
        removed.resume = self._resume()
        remark(f"if it is cut short, go on with: {removed.resume}")
        signals.take_over(self._stop.set, "stopping after what is under way", removed.sentence)
        try:
            with Progress(removed.selected) as progress:
                async for page in letters.pages(self._where):
                    await self._take(letters, page[: removed.selected - removed.seen])
                    progress.advance(len(page), removed.sentence())
                    if removed.seen >= removed.selected or self._stop.is_set():
                        break
        except BusError:
            remark(f"cut short: {removed.sentence()}")
            raise
        removed.interrupted = self._stop.is_set() and removed.seen < removed.selected
        if not removed.interrupted and not self._named and self._wanted.dead_before is None:
            since = attrs.evolve(self._wanted, dead_after=self._where.dead_before)
            removed.later = await letters.store.count(since)
        return removed

    async def _ask(self) -> None:
        if self._yes:
            return
        question = f"{self._removed.action} {counted(self._removed.selected, 'dead letter')}?"
        await confirm(question)

    def _resume(self) -> str:
        """The command that goes on where this one ends."""
        where = self._where
        options = {
            "--topic": where.topic,
            "--subscription": where.subscription,
            "--error": where.error,
            "--older-than": where.dead_before and where.dead_before.isoformat(),
            "--newer-than": where.dead_after and where.dead_after.isoformat(),
            "--event-id": where.event_id and str(where.event_id),
        }
        words = ["promenade-bus", "dead-letters", self._removed.action, *self._bus, *self._named]
        for name, value in options.items():
            if value:
                words += [name, value]
        return clean(shlex.join(words))

    async def _take(self, letters: Letters, page: Sequence[DeadLetter]) -> None:
        removed = self._removed
        removed.seen += len(page)
        if not page:
            return
        ids = [letter.id for letter in page]
        if removed.action == "purge":
            removed.done += await letters.store.purge(DeadLetterFilter(ids=frozenset(ids)))
            return
        try:
            removed.done += await letters.store.redrive(ids)
        except UnknownSubscription:  # of one of them, and then none was moved
            await self._take_apart(letters, page)

    async def _take_apart(self, letters: Letters, page: Sequence[DeadLetter]) -> None:
        """Each subscription by itself, so that one that is gone keeps none of the others."""
        removed = self._removed
        owned: dict[tuple[str, str], list[str]] = {}
        for letter in page:
            owned.setdefault((letter.subscription, letter.topic), []).append(letter.id)
        for owner, ids in owned.items():
            try:
                removed.done += await letters.store.redrive(ids)
            except UnknownSubscription as error:
                before = removed.kept.get(owner, (0, ""))[0]
                removed.kept[owner] = before + len(ids), str(error)
