"""The steps of a history: plain values that can be printed, stored, and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

__all__ = ["TOPICS", "History", "Step", "Wish"]

TOPICS = (
    *("shop.order.placed", "shop.order.paid", "shop.payment.made"),
    *("crm.deal.won", "crm.deal.lost"),
)
"""The topics of all histories."""


@attrs.frozen
class Wish:
    """A subscription in the code of a service: a topic or pattern, under a name, with order or without."""

    name: str
    topic: str
    ordered: bool = False


@attrs.frozen
class Step:
    """One thing that happens. ``facts`` are what it is done to, and how."""

    do: str
    facts: Mapping[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.facts.items())
        return f"{self.do}({told})"


@attrs.frozen(kw_only=True)
class History:
    """Steps, and the settings of all buses.

    ``seed`` made it. ``lease`` and ``retry_delay`` are seconds. ``orphaned_after`` is how long nobody may
    want a group before health names it. ``persistent``: the server keeps what it has over a restart.
    """

    seed: int
    lease: float
    retry_delay: float
    orphaned_after: float
    persistent: bool
    steps: tuple[Step, ...]

    def with_steps(self, steps: Sequence[Step]) -> History:
        """The same with other steps."""
        return attrs.evolve(self, steps=tuple(steps))

    def does(self, *names: str) -> bool:
        """True when one of these things happens in it."""
        return any(step.do in names for step in self.steps)

    def lines(self) -> list[str]:
        """For people."""
        head = (
            f"seed {self.seed}, lease {self.lease:g} s, retries after {self.retry_delay:g} s, "
            f"orphaned after {self.orphaned_after:g} s"
        )
        return [head, *(f"  {number:2}. {step}" for number, step in enumerate(self.steps, start=1))]

    def write(self, path: Path) -> None:
        """As JSON."""
        data = attrs.asdict(self) | {"steps": [{"do": step.do, **step.facts} for step in self.steps]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> History:
        """Reads the text of ``write``."""
        data = json.loads(path.read_text(encoding="utf-8"))
        steps = [Step(each.pop("do"), each) for each in data.pop("steps")]
        return cls(steps=tuple(steps), **data)
