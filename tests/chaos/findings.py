"""The results of a run, and the checks of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from bus_core import DeadLetter
from chaos.crew import Exit
from chaos.scenario import Scenario
from promenade_bus_testing import Account
from promenade_bus_testing.journal import Record


@attrs.frozen(kw_only=True)
class Findings:
    """A run that is over.

    ``journal`` has the records of all processes, ``samples`` are what each told about itself, ``logs`` what
    it logged, ``strange`` sentences about processes that ended otherwise than they were told to.
    """

    scenario: Scenario
    full: bool
    seconds: float
    journal: Sequence[Record]
    account: Account
    allowed_duplicates: int
    notes: Counter[str]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    logs: Mapping[str, str]
    exits: Sequence[Exit]
    letters: Sequence[DeadLetter]
    strange: Sequence[str]

    @property
    def faults(self) -> list[str]:
        """Why it has failed; empty when it has not."""
        faults = [fault for fault in self.account.faults if not self._is_told(fault)]
        faults += self.strange
        for check in (was_loaded, *self.scenario.checks):
            faults += check(self)
        return faults

    def _is_told(self, fault: str) -> bool:
        lost = self.account.total("lost")
        return (
            self.scenario.losses_are_told
            and fault.startswith(f"{lost} lost")
            and any("lost" in text for text in self.summaries("consumer"))
        )

    def summaries(self, kind: str) -> Iterator[str]:
        """The answers of health checks of one kind of process, whenever they were not healthy."""
        for sample in self.samples_of(kind):
            if sample["status"] != "healthy":
                yield from sample["summaries"].values()

    def samples_of(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """The looks that processes of a kind took at themselves."""
        for name, samples in self.samples.items():
            if name.startswith(kind):
                yield from (sample for sample in samples if "status" in sample)

    def records(self, *kinds: str) -> Iterator[Record]:
        """The records of the journals, of some kinds."""
        return (record for record in self.journal if record.kind in kinds)

    def last(self, name: str) -> int:
        """The sum of a counter over all processes, as they last told it."""
        total = 0
        for samples in self.samples.values():
            told = [sample[name] for sample in samples if name in sample]
            total += told[-1] if told else 0
        return total

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        account = self.account
        refused = Counter(record.text for record in self.records("refused"))
        return {
            "number": self.scenario.number,
            "name": self.scenario.name,
            "story": self.scenario.story,
            "full": self.full,
            "seconds": round(self.seconds, 2),
            "attempted": account.attempted,
            "acknowledged": account.acknowledged,
            "refused": dict(refused),
            **{
                name: account.total(name)
                for name in (
                    *("expected", "handled", "dead_lettered", "duplicated", "lost", "unexpected"),
                    *("interrupted", "failed"),
                )
            },
            "allowed_duplicates": self.allowed_duplicates,
            "causes_of_dead_letters": dict(Counter(map(_cause, self.letters))),
            "stuck": account.stuck,
            "counted_lost": account.counted_lost,
            "settled_too_late": self.last("late"),
            "recovery": account.recovery,
            "caught_up": account.caught_up,
            "notes": dict(self.notes),
            "faults": self.faults,
        }


def _cause(letter: DeadLetter) -> str:
    """Why it is dead, without what an error says."""
    error = letter.attempts[-1].error.partition(":")[0] if letter.attempts else ""
    return f"{letter.reason.partition(':')[0]} {error}".strip()


def was_loaded(findings: Findings) -> Iterator[str]:
    """Something was published and handled: an empty account adds up, too."""
    if findings.account.acknowledged < 20:
        yield f"only {findings.account.acknowledged} events were acknowledged: nothing is shown"
