"""Histories in short, and that they find what they are made to find."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chaos.histories.making import make
from chaos.histories.planted import BUGS, IN_MEMORY
from chaos.histories.running import Outcome, carry_out, run_all
from chaos.histories.steps import History, Step
from promenade_bus_memory import MemoryHub
from redis_support.binaries import newest_binary

pytestmark = [pytest.mark.long, pytest.mark.once]

_SHORT = 8
_SEEDS = range(1, 21)

_MAIL = [["mail", "shop.order.placed", False]]
_TWO = [["mail", "shop.order.*", False], ["mail", "shop.payment.*", False]]


def told(outcomes: list[Outcome]) -> str:
    """The histories that have failed, for people."""
    failed = [outcome for outcome in outcomes if outcome.faults]
    return "\n".join("\n".join([*each.history.lines(), *each.faults]) for each in failed)


def history(
    *steps: tuple[str, dict[str, Any]], orphaned_after: float = 86_400.0, lease: float = 0.5
) -> History:
    return History(
        seed=0,
        lease=lease,
        retry_delay=0.02,
        orphaned_after=orphaned_after,
        persistent=False,
        steps=tuple(Step(do, facts) for do, facts in steps),
    )


def deploy(label: str, *, ordered: bool = False, version: int = 1) -> tuple[str, dict[str, Any]]:
    code = [["mail", "shop.order.placed", ordered]]
    return "deploy", {"label": label, "service": "billing", "code": code, "version": version}


def publish(count: int, plan: str = "", version: int = 1) -> tuple[str, dict[str, Any]]:
    return "publish", {"topic": "shop.order.placed", "count": count, "plan": plan, "version": version}


def until(what: str) -> tuple[str, dict[str, Any]]:
    return "until", {"what": what, "topic": "shop.order.placed", "group": "billing.mail"}


FOUND = {
    "leave-what-the-dead-held": (
        history(
            deploy("a"),
            publish(8, "slow"),
            until("held"),
            ("kill", {"label": "a"}),
            deploy("b"),
        ),
        "wait for billing.mail, which runs, and settles none",
    ),
    "leave-retries-of-the-dead": (
        history(
            deploy("a"),
            publish(8, "later"),
            until("parked"),
            ("kill", {"label": "a"}),
            deploy("b"),
            lease=2.0,
        ),
        "wait for billing.mail, which runs, and settles none",
    ),
    "let-all-be-active": (
        history(
            deploy("a", ordered=True),
            deploy("b", ordered=True),
            *[publish(4, plan) for _ in range(6) for plan in ("slow", "")],
        ),
        "which is ordered, handled events of shop.order.placed out of order",
    ),
    "bury-what-is-newer": (
        history(deploy("a"), deploy("b", version=2), *[publish(4, version=2) for _ in range(4)]),
        "up at once: cannot be decoded",
    ),
    "keep-the-turn": (
        history(
            deploy("a", ordered=True),
            publish(4),
            deploy("b", ordered=True, version=2),
            publish(4, version=2),
            ("wait", {"leases": 14.0}),
        ),
        "up, which b can read: cannot be decoded: no instance",
    ),
    "remember-last-part": (
        history(
            ("deploy", {"label": "a", "service": "billing", "code": _TWO}),
            ("stop", {"label": "a"}),
            ("deploy", {"label": "w", "service": "web", "code": [["view", "shop.order.placed", False]]}),
            publish(4),
            ("wait", {"leases": 5.0}),
            ("deploy", {"label": "b", "service": "billing", "code": _TWO}),
        ),
        "4 events of shop.order.placed are lost to billing.mail",
    ),
    "name-nobody": (
        history(deploy("a"), ("stop", {"label": "a"}), publish(1), orphaned_after=0.5),
        "wait for billing.mail, which nobody runs, and health names it nowhere",
    ),
    "count-no-loss": (
        history(
            deploy("a"),
            ("stop", {"label": "a"}),
            publish(4),
            ("trim", {"topic": "shop.order.placed", "keep": 1}),
            deploy("b"),
        ),
        "3 events of shop.order.placed are lost to billing.mail, of which 0 are counted",
    ),
}
"""Bugs, each with a history that shows it, and how that is told."""


def test_histories_on_a_server() -> None:
    """Each event reaches an end, is counted, or waits for a known subscription."""
    histories = [make(seed, steps=_SHORT) for seed in _SEEDS]
    outcomes = asyncio.run(run_all(histories, newest_binary(), side_by_side=10))
    assert len(outcomes) == len(_SEEDS)
    assert not told(outcomes), told(outcomes)


_FURTHER_TRIES = 2


def test_histories_in_memory() -> None:
    """The same where buses share a hub."""
    histories = [make(seed, steps=_SHORT) for seed in _SEEDS]
    outcomes = asyncio.run(run_all(histories, None, side_by_side=10))
    assert len(outcomes) == len(_SEEDS)
    assert not told(outcomes), told(outcomes)


def test_bugs_are_found() -> None:
    """A bug that is planted into the processes makes a history fail that is fine without it."""

    async def run_each() -> list[Outcome]:
        some = asyncio.Semaphore(4)

        async def run(found: History, bug: str, patience: float) -> Outcome:
            async with some:
                return await carry_out(found, newest_binary(), bug=bug, patience=patience)

        async def run_planted(found: History, bug: str, fault: str) -> Outcome:
            # A bug of two instances needs both to be at work at the same moment, which not every run has.
            outcome = await run(found, bug, 6.0)
            for _ in range(_FURTHER_TRIES):
                if any(fault in each for each in outcome.faults):
                    break
                outcome = await run(found, bug, 6.0)
            return outcome

        planted = [run_planted(each, bug, fault) for bug, (each, fault) in FOUND.items()]
        return await asyncio.gather(*planted, *(run(each, "", 15.0) for each, _ in FOUND.values()))

    outcomes = asyncio.run(run_each())
    for outcome, (bug, (_, fault)) in zip(outcomes, FOUND.items(), strict=False):
        assert any(fault in each for each in outcome.faults), (bug, outcome.faults)
    assert not told(outcomes[len(FOUND) :]), told(outcomes[len(FOUND) :])


def test_a_bug_in_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is passed over loses events, in memory as well."""
    other = ("deploy", {"label": "b", "service": "web", "code": _MAIL})
    both = history(deploy("a"), other, publish(4))
    monkeypatch.setattr(MemoryHub, "route", MemoryHub.route)  # it is put back afterwards
    assert not asyncio.run(carry_out(both, None)).faults
    BUGS[IN_MEMORY[0]]()
    faults = asyncio.run(carry_out(both, None)).faults
    assert any("4 events of shop.order.placed are lost to web.mail" in fault for fault in faults), faults
