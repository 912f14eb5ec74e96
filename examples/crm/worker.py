"""One worker of the demo with several processes: ``python -m crm.worker``, with its part as JSON.

It prints a line when it is ready, and works until SIGTERM, or until its standard input ends: then whoever
started it is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs

from crm.app import Application, build
from crm.customer import visible_name
from crm.filed import FiledBus
from crm.shelf import FileShelf
from promenade_bus_testing import Journal as FileJournal

__all__ = ["Part", "join"]


@attrs.frozen
class Part:
    """The settings of every process of the demo. ``mended`` is a version without the bug."""

    config: Mapping[str, Any]
    directory: str
    seed: int
    mended: bool = False


@contextmanager
def join(part: Part, name: str) -> Iterator[tuple[Application, FileJournal]]:
    """The application, as one of several processes, and its journal; the bus is not started yet."""
    directory = Path(part.directory)
    with (
        FileJournal(directory / "journals", name) as file,
        closing(FileShelf(directory / "shelf.sqlite3")) as shelf,
    ):
        app = build(
            part.config,
            seed=part.seed,
            shelf=shelf,
            journaled_by=lambda bus, journal: FiledBus(bus, journal, file),
        )
        if part.mended:
            app.customers.salutation_of = visible_name
        yield app, file


async def _work(part: Part) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)

    def watch_parent() -> None:
        while os.read(0, 4096):  # not through sys.stdin, whose lock this thread would hold at the end
            pass
        try:
            loop.call_soon_threadsafe(told.set)
        except RuntimeError:
            pass  # it has ended already

    threading.Thread(target=watch_parent, daemon=True).start()
    with join(part, "worker") as (app, file):
        async with app.bus:
            for subscription in app.bus.subscriptions:
                await subscription.ready()
            print("ready", flush=True)
            await told.wait()
        file.counted_lost(app.bus.state().lost)


if __name__ == "__main__":
    logging.getLogger("promenade").setLevel(logging.CRITICAL)  # failures are counted by the account
    asyncio.run(_work(Part(**json.loads(sys.argv[1]))))
