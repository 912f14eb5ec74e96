"""``promenade-bus dead-letters`` on a server, as a process that is killed and interrupted on the way."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from bus_core import Attempt, BaseEvent, DeadLetter, DeadLetterFilter, Message, NoRetry
from promenade_bus_redis.streams.wire import letter_fields
from redis_support.fixtures import SharedServer
from redis_support.streams import GROUP, TOPIC, Place, place_on, until

pytestmark = pytest.mark.once

FEW = 1500
IN_SMALL_PAGES = """
import sys
from promenade_bus_cli import letters
from promenade_bus_cli.main import main

letters._AT_ONCE = 20
main(sys.argv[1:])
"""


def write_config(place: Place, directory: Path) -> Path:
    """A configuration of the place."""
    config = directory / "app.yaml"
    redis = {"addr": place.address, "prefix": place.prefix}
    bus = {"adapter": "redis", "strict_topics": False, "redis": redis}
    config.write_text(json.dumps({"app": {"name": "tests"}, "bus": bus}))
    return config


def body_of(number: int) -> tuple[UUID, bytes]:
    """An event that carries a number."""
    event_id = uuid4()
    document = {
        "specversion": "1.0",
        "id": str(event_id),
        "source": "tests",
        "type": "thing.happened",
        "subject": "7",
        "data": {"number": number},
    }
    return event_id, json.dumps(document).encode()


def fill(place: Place, count: int) -> None:
    """Stores letters of a group whose handler had a fault."""
    failed = Attempt(1, datetime.now(UTC), "LookupError: no price", "/srv/shop.py:18 in deep")
    died = datetime.now(UTC) - timedelta(minutes=1)
    with place.server.client() as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(count):
            event_id, body = body_of(number)
            message = Message(str(event_id), TOPIC, "7", body)
            letter = DeadLetter(
                "x", TOPIC, "listener", event_id, "7", "gave up", (failed,), body, dead_at=died
            )
            fields = letter_fields(letter, message, died, GROUP)
            pipeline.execute_command("XADD", place.keys.dead(TOPIC), "*", *fields)
        pipeline.execute()


def left(place: Place) -> int:
    """The number of letters."""
    return int(place.ask("XLEN", place.keys.dead(TOPIC)))


def start(directory: Path, words: Sequence[str]) -> subprocess.Popen[str]:
    """The command as a process, which takes many steps."""
    return subprocess.Popen(
        [sys.executable, "-c", IN_SMALL_PAGES, *words],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def resumed(stderr: str) -> list[str]:
    """The words of the command that goes on."""
    line = next(line for line in stderr.splitlines() if "go on with: promenade-bus " in line)
    return shlex.split(line.partition("promenade-bus ")[2])


async def stopped_at(place: Place, process: subprocess.Popen[str], limit: int, how: signal.Signals) -> str:
    """Sends a signal once there are at most so many letters left; returns what it wrote to stderr."""
    await until(lambda: left(place) <= limit or process.poll() is not None, "letters are gone", 60)
    process.send_signal(how)
    _, stderr = await asyncio.to_thread(process.communicate, timeout=30)
    return stderr


@pytest.mark.parametrize(
    "stops",
    [
        (signal.SIGKILL, signal.SIGKILL),
        pytest.param((signal.SIGINT, signal.SIGINT), marks=pytest.mark.long),
    ],
)
async def test_it_goes_on_where_it_was_stopped(
    redis_server: SharedServer, tmp_path: Path, stops: Sequence[signal.Signals]
) -> None:
    """Killed, or interrupted, twice on the way and continued, it loses no letter and redrives none twice.

    Letters that die anew meanwhile are left alone.
    """
    async with place_on(redis_server) as place:
        config = write_config(place, tmp_path)
        handled: Counter[int] = Counter()

        async def handle(event: BaseEvent) -> None:
            number = event.data["number"]
            handled[number] += 1
            if number % 10 == 0:
                raise ValueError("still")

        bus = place.bus()
        bus.subscribe(TOPIC, handle, name="listener", retry=NoRetry())
        async with bus:
            await bus.subscriptions[0].ready()
            fill(place, FEW)
            words = ["dead-letters", "redrive", "--all", "--yes", "--config", str(config)]
            for stop, limit in zip(stops, (FEW * 2 // 3, FEW // 3 + FEW // 10), strict=True):
                process = start(tmp_path, words)
                words = [*resumed(await stopped_at(place, process, limit, stop)), "--yes"]
                assert process.returncode == (-9 if stop is signal.SIGKILL else 130)
            process = start(tmp_path, [*words, "--json"])
            stdout, stderr = await asyncio.to_thread(process.communicate, timeout=30)
            assert process.returncode == 0, stderr
            told = json.loads(stdout)
            assert 0 < told["redriven"] == told["selected"] < FEW
            await until(lambda: handled.total() >= FEW, "all are handled", 30)
            await bus.drain()
            assert handled == Counter(range(FEW))
            assert left(place) == FEW // 10


async def test_a_purge_goes_on_too(redis_server: SharedServer, tmp_path: Path) -> None:
    """An interrupted purge says how far it came, and goes on; no letter is left."""
    async with place_on(redis_server) as place:
        await place.adapter()
        await place.publish(1)
        config = write_config(place, tmp_path)
        fill(place, FEW)
        words = ["dead-letters", "purge", "--error", "/srv/shop.py:18", "--yes", "--config", str(config)]
        process = start(tmp_path, words)
        stderr = await stopped_at(place, process, FEW * 2 // 3, signal.SIGINT)
        assert process.returncode == 130
        assert f"of {FEW:,} dead letters purged; stopping after what is under way" in stderr
        rest = left(place)
        assert 0 < rest < FEW
        process = start(tmp_path, [*resumed(stderr), "--yes", "--json"])
        stdout, _ = await asyncio.to_thread(process.communicate, timeout=30)
        assert json.loads(stdout)["purged"] == rest
        assert left(place) == 0


async def test_tail_leaves_nothing_behind(redis_server: SharedServer, tmp_path: Path) -> None:
    """``promenade-bus tail`` shows what is published until Ctrl-C, and is no group on the server."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        config = write_config(place, tmp_path)
        process = start(tmp_path, ["tail", "tests.#", "--show-data", "--config", str(config)])
        assert process.stderr is not None
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stderr.readline)
        assert line == "following tests.# on 'redis'; Ctrl-C ends it\n"
        await place.publish(41)
        assert '"number": 41' in await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(process.communicate, timeout=30)
        assert process.returncode == 130
        assert await adapter.groups.list(count=True) == []
        assert await adapter.dead_letters.count(DeadLetterFilter()) == 0
