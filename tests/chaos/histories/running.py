"""Runs histories, several side by side."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import attrs

from chaos.histories.acting import Acting
from chaos.histories.ending import finish
from chaos.histories.making import suits_memory
from chaos.histories.places import Memory, OnServer, Place
from chaos.histories.steps import History
from chaos.histories.troupe import Failed
from redis_support.binaries import ServerBinary

__all__ = ["Outcome", "carry_out", "run_all"]

_LONGEST = 120.0


@attrs.frozen
class Outcome:
    """A history that is over, and what is wrong."""

    history: History
    faults: tuple[str, ...]
    seconds: float


async def carry_out(
    history: History,
    binary: ServerBinary | None,
    *,
    bug: str = "",
    keep: Path | None = None,
    patience: float = 15.0,
) -> Outcome:
    """Carries out one history, on a server of its own, or in memory when there is no binary.

    ``patience`` is for how many seconds somebody who runs may leave events unsettled at the end.
    """
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="promenade-history-")) if keep is None else keep
    directory.mkdir(parents=True, exist_ok=True)
    if binary is None:
        history = suits_memory(history)
    place: Place = Memory(history, directory) if binary is None else OnServer(history, binary, directory, bug)
    faults: list[str] = []
    try:
        async with asyncio.timeout(_LONGEST):
            await place.open()
            acting = Acting(history, place)
            await acting.begin()
            await acting.carry_out()
            faults = await finish(acting, directory, patience)
    except (TimeoutError, Failed) as error:
        faults = [f"it came to no end: {type(error).__name__}: {error}"]
    finally:
        await place.close()
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    return Outcome(history, tuple(faults), time.monotonic() - began)


async def run_all(
    histories: Iterable[History],
    binary: ServerBinary | None,
    *,
    side_by_side: int,
    bug: str = "",
    stop_at: int | None = None,
) -> list[Outcome]:
    """Carries out histories until so many have failed."""
    waiting = iter(histories)
    outcomes: list[Outcome] = []

    async def work() -> None:
        for history in waiting:
            outcomes.append(await carry_out(history, binary, bug=bug))
            if stop_at is not None and sum(bool(each.faults) for each in outcomes) >= stop_at:
                return

    await asyncio.gather(*(work() for _ in range(side_by_side)))
    return outcomes
