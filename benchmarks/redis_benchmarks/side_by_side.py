"""The contenders that have processes of their own, in turn, on one server with the same payload."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from promenade_benchmarks.segments import Timing
from redis_benchmarks.processes import CONTENDERS, Absent, Contender, Load, Run, run_of
from redis_support.servers import Server

__all__ = ["Found", "at_rates", "end_to_end"]

WORKERS: Final = (1, 2)
"""Worker processes."""


@attrs.frozen
class Found:
    """Runs by the name of the contender and the number of worker processes; why others have none."""

    runs: dict[tuple[str, int], list[Run]] = attrs.field(factory=dict)
    loads: dict[tuple[str, int], Load] = attrs.field(factory=dict)
    absent: dict[str, str] = attrs.field(factory=dict)

    def present(self, workers: int) -> list[Contender]:
        return [
            contender
            for contender in CONTENDERS
            if contender.title not in self.absent and (contender.name, workers) in self.runs
        ]

    def timing(self, contender: Contender, workers: int) -> Timing:
        """Nanoseconds for each event, on the wall clock."""
        events = self.loads[contender.name, workers].events
        runs = self.runs[contender.name, workers]
        return Timing(contender.title, events, tuple(run.seconds * 1e9 / events for run in runs))

    def timing_of(self, name: str, workers: int) -> Timing:
        return next(self.timing(each, workers) for each in CONTENDERS if each.name == name)

    def carry(self, server: Server, contender: Contender, workers: int, load: Load) -> None:
        if contender.title in self.absent:
            return
        try:
            run = run_of(server, contender, workers, load)
        except Absent as reason:
            self.absent[contender.title] = str(reason)
        else:
            self.loads[contender.name, workers] = load
            self.runs.setdefault((contender.name, workers), []).append(run)


def end_to_end(server: Server, share: float, rounds: int, say: Callable[[str], None]) -> Found:
    """As fast as 50 tasks publish, with one and with two worker processes."""
    found = Found()
    for turn in range(rounds):
        for contender in _in_turn(turn):
            say(f"      round {turn + 1} of {rounds}: {contender.title}")
            for workers in WORKERS:
                found.carry(server, contender, workers, Load(max(100, round(contender.events * share))))
    return found


def at_rates(
    server: Server, per_second: int, seconds: float, rounds: int, say: Callable[[str], None]
) -> Found:
    """At a steady rate, with one worker process."""
    found = Found()
    for turn in range(rounds):
        for contender in _in_turn(turn):
            say(f"      {per_second:,} a second, round {turn + 1} of {rounds}: {contender.title}")
            found.carry(server, contender, 1, Load(round(per_second * seconds), per_second))
    return found


def _in_turn(turn: int) -> Iterable[Contender]:
    """Each round begins with another one."""
    first = turn % len(CONTENDERS)
    return [*CONTENDERS[first:], *CONTENDERS[:first]]
