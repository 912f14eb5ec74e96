"""Runs one scenario: load, faults, healing, draining, account."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bus_core import DeadLetter, open_bus
from chaos.crew import Crew, bus_config
from chaos.findings import Findings
from chaos.scenario import Scenario
from chaos.sites import Site
from chaos.stage import Stage
from promenade_bus_testing import Account, Journal
from promenade_bus_testing.journal import Record, read_journal
from redis_support.child_processes import wait_until

_EVERY_LETTER = 1_000_000


def run(
    scenario: Scenario, *, full: bool = False, bug: str = "", scale: float = 1.0, keep: Path | None = None
) -> Findings:
    """Runs it. ``bug`` is planted into every process; ``keep`` is where journals and logs stay.

    ``scale`` shortens, or lengthens, the time in which faults happen.
    """
    # Absolute: the processes have another working directory.
    directory = keep.absolute() if keep else Path(tempfile.mkdtemp(prefix="promenade-chaos-"))
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)
        keep.mkdir(parents=True)
    try:
        return _Run(scenario, directory, full=full, bug=bug, scale=scale).findings()
    finally:
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)


class _Run:
    def __init__(self, scenario: Scenario, directory: Path, *, full: bool, bug: str, scale: float) -> None:
        self.scenario = scenario
        self.directory = directory
        self.full = full
        self.bug = bug
        self.scale = scale

    def findings(self) -> Findings:
        began = time.monotonic()
        with self.scenario.site() as site, Journal(self.directory / "journals", "runner") as journal:
            crew = Crew(site, self.scenario, self.directory, full=self.full, bug=self.bug)
            stage = Stage(self.scenario, site, crew, journal, full=self.full, scale=self.scale)
            try:
                self._act(stage)
                letters = self._settle(stage)
            finally:
                crew.end_all()
            return self._sum_up(stage, letters, time.monotonic() - began)

    def _act(self, stage: Stage) -> None:
        for injection in self.scenario.before:
            injection(stage)
        stage.crew.start_consumers()
        stage.crew.start_producers()
        time.sleep(stage.size(self.scenario.calm))
        for injection in self.scenario.faults:
            injection(stage)
        stage.site.heal()
        stage.journal.mark("healed")
        time.sleep(stage.size(self.scenario.calm))
        stage.crew.check_alive()

    def _settle(self, stage: Stage) -> Sequence[DeadLetter]:
        """Ends the producers, waits until nothing is left, and ends the consumers."""
        # A publish that cannot succeed takes publish_timeout.
        patience = self.scenario.load.publish_timeout + 10.0
        running = [post for post in stage.crew.producers if post.member.poll() is None]
        stage.crew.end(*running, timeout=patience)
        try:
            wait_until(lambda: stage.left() == 0, "everything is settled", self.scenario.patience)
        except TimeoutError:
            stage.journal.stuck(stage.left(), "unread, pending, or waiting for a retry")
        letters, stage.notes["lost_on_server"] = asyncio.run(_look_back(stage.site))
        stage.journal.dead_letters(letters)
        stage.crew.end(*stage.crew.consumers)
        return letters

    def _sum_up(self, stage: Stage, letters: Sequence[DeadLetter], seconds: float) -> Findings:
        notes = stage.notes
        if hasattr(stage.site, "proxy"):
            notes.update({name: stage.one.proxy.counts[name] for name in ("resets", "lost_replies")})
        allowed = sum(notes[what] * each for what, each in self.scenario.duplicates.items())
        return Findings(
            scenario=self.scenario,
            full=self.full,
            seconds=seconds,
            journal=[*self._records()],
            account=Account.of(self.directory / "journals", duplicates=allowed),
            allowed_duplicates=allowed,
            notes=notes,
            samples={
                path.stem: stage.crew.samples(path.stem) for path in (self.directory / "samples").glob("*")
            },
            logs={path.stem: path.read_text(errors="replace") for path in self.directory.glob("*.log")},
            exits=stage.crew.exits,
            letters=letters,
            strange=stage.crew.strange,
        )

    def _records(self) -> Iterator[Record]:
        for path in sorted((self.directory / "journals").glob("*.jsonl")):
            yield from (record for record in read_journal(path) if isinstance(record, Record))


async def _look_back(site: Site) -> tuple[Sequence[DeadLetter], int]:
    """The dead letters, and how many events were counted as lost, as the server has it."""
    async with open_bus(bus_config(site)) as bus:
        losses = await site.losses_of(bus.adapter)
        return await bus.dead_letters.list(limit=_EVERY_LETTER), losses
