"""``make chaos ONLY=histories``: many histories, on every kind of server, and what is printed of them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from chaos.histories.making import make
from chaos.histories.planted import BUGS, IN_MEMORY, plant
from chaos.histories.running import Outcome, carry_out, run_all
from chaos.histories.shrinking import shrink
from chaos.histories.steps import History
from redis_support.binaries import ServerBinary, find_binaries

__all__ = ["BUGS", "MEMORY", "Order", "kinds", "run_histories"]

MEMORY = "memory"


@attrs.frozen(kw_only=True)
class Order:
    """The number of histories, the first seed, the place and the kind.

    ``replay`` is the file of one history, which is carried out instead. ``stop_at`` ends the run of a kind
    after so many failures. ``shrink_for`` are the seconds for which the first failure is made smaller.
    """

    count: int = 300
    seed: int = 1
    kinds: Sequence[str] = ()
    bug: str = ""
    replay: Path | None = None
    results: Path = Path("build/chaos")
    side_by_side: int = 6
    stop_at: int | None = 3
    shrink_for: float = 300.0


def kinds() -> dict[str, ServerBinary | None]:
    """Where histories can take place: memory, and every server that is found."""
    return {MEMORY: None, **{binary.id: binary for binary in find_binaries()}}


def run_histories(order: Order) -> list[str]:
    """Runs them; returns for which kinds one has failed."""
    bus_log = logging.getLogger("promenade")
    bus_log.addHandler(logging.NullHandler())
    bus_log.propagate = False  # what is told of buses in this process is told thousands of times
    failed: list[str] = []
    if order.bug in IN_MEMORY:
        plant(order.bug)
    for name, binary in kinds().items():
        if not order.kinds or any(kind in name for kind in order.kinds):
            failed += [name] if asyncio.run(_run_kind(order, name, binary)) else []
    return failed


async def _run_kind(order: Order, name: str, binary: ServerBinary | None) -> bool:
    began = time.monotonic()
    histories = (
        [History.read(order.replay)]
        if order.replay is not None
        else (make(seed) for seed in range(order.seed, order.seed + order.count))
    )
    outcomes = await run_all(
        histories, binary, side_by_side=order.side_by_side, bug=order.bug, stop_at=order.stop_at
    )
    failures = [outcome for outcome in outcomes if outcome.faults]
    steps = sum(len(outcome.history.steps) for outcome in outcomes)
    print(
        f"== histories on {name}: {len(outcomes)} with {steps:,} steps in "
        f"{time.monotonic() - began:.0f} s, {len(failures)} failed",
        flush=True,
    )
    for outcome in failures:
        print("\n".join(f"   seed {outcome.history.seed}: {fault}" for fault in outcome.faults), flush=True)
    if failures:
        await _show_smallest(order, name, binary, failures[0])
    _write(order.results / f"histories-{name}.json", name, outcomes)
    return bool(failures)


async def _show_smallest(order: Order, name: str, binary: ServerBinary | None, outcome: Outcome) -> None:
    """Makes a failure smaller, and prints how it is seen again."""

    async def fails(history: History) -> bool:
        return bool((await carry_out(history, binary, bug=order.bug)).faults)

    smallest = await shrink(outcome.history, fails, seconds=order.shrink_for)
    path = order.results / f"history-{name}-{smallest.seed}.json"
    smallest.write(path)
    print("\n".join(smallest.lines()))
    bug = f" --bug {order.bug}" if order.bug else ""
    print(f"again: make chaos ONLY=histories ARGS='--replay {path} --kinds {name}{bug}'", flush=True)


def _write(path: Path, name: str, outcomes: Sequence[Outcome]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "kind": name,
        "count": len(outcomes),
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "failed": {str(each.history.seed): [*each.faults] for each in outcomes if each.faults},
    }
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
