"""A process that forks while its bus is open: the child may not use it, and harms nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.sqlite_files import ask

_PROGRAM = """
import asyncio, gc, os, sys
from uuid import uuid4
from bus_core import BaseEvent, BusForked, Topic, open_bus

TOPIC = Topic("test.thing.happened", BaseEvent)
handled = []

async def main():
    config = {"app": {"name": "tests"}, "bus": {"adapter": "sqlite", "sqlite": {"path": sys.argv[1]}}}
    async with open_bus(config) as bus:
        await bus.subscribe(TOPIC, lambda event: handled.append(event), name="audit").ready()
        for _ in range(20):
            await bus.publish(TOPIC, BaseEvent("thing.happened", uuid4()))
        child = os.fork()
        if not child:
            code = 1
            try:
                bus.publish(TOPIC, BaseEvent("thing.happened", uuid4())).send(None)
            except BusForked:
                code = 7
            worker = bus.adapter.running.worker
            worker._db.close()  # as the end of the process does it
            del bus, worker
            gc.collect()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        for _ in range(20):
            await bus.publish(TOPIC, BaseEvent("thing.happened", uuid4()))
        await bus.drain()
    print(os.waitstatus_to_exitcode(status), len(handled))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork(tmp_path: Path) -> None:
    """The child is refused, closes what it inherited, and the parent loses nothing."""
    path = tmp_path / "events.db"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "7 40\n", done.stderr
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert ask(path, "SELECT count(*) FROM promenade_event") == [(40,)]
