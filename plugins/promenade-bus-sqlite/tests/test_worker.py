"""The thread that works on the file: shared transactions, waking, and what fails."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bus_core import PublishFailed, PublishUncertain
from promenade_bus_sqlite.failures import Kind, SqliteFailure
from support.consuming import acks, message, receive, spec, until
from support.sqlite_files import ask, started


async def test_what_is_asked_at_once_shares_transactions(tmp_path: Path) -> None:
    """Hundreds of publishes, claims and settlements of one moment are few commits."""
    async with started(tmp_path / "events.db") as adapter:
        worker = adapter.running.worker
        before = worker.transactions
        results = await asyncio.gather(*(adapter.publish([message(number)]) for number in range(300)))
        assert results == [[None]] * 300
        assert worker.transactions - before < 60


async def test_a_command_that_fails_undoes_no_other(tmp_path: Path) -> None:
    """Work that shared its transaction is done in another one."""
    async with started(tmp_path / "events.db") as adapter:
        worker = adapter.running.worker

        def insert(number: int, db: sqlite3.Connection) -> int:
            db.execute("INSERT INTO promenade_mark VALUES (?, 0)", (-number,))
            if number == 3:
                raise KeyError("no")
            return number

        results = await asyncio.gather(
            *(worker.write(partial(insert, number)) for number in range(1, 6)),
            return_exceptions=True,
        )
        assert [each for each in results if not isinstance(each, KeyError)] == [1, 2, 4, 5]
        marks = ask(tmp_path / "events.db", "SELECT at FROM promenade_mark WHERE at < 0 ORDER BY at DESC")
        assert marks == [(-1.0,), (-2.0,), (-4.0,), (-5.0,)]


async def test_the_loop_is_not_blocked(tmp_path: Path) -> None:
    """While another process keeps the file locked, the event loop goes on, and publish waits."""
    path = tmp_path / "events.db"
    async with started(path, busy_timeout=5.0) as adapter:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            publishing = asyncio.create_task(adapter.publish([message()]))
            longest, began = 0.0, time.monotonic()
            while time.monotonic() - began < 0.3:
                turn = time.monotonic()
                await asyncio.sleep(0)
                longest = max(longest, time.monotonic() - turn)
            assert not publishing.done()
            assert longest < 2
            db.execute("ROLLBACK")
        assert await publishing == [None]


async def test_a_locked_file(tmp_path: Path) -> None:
    """After busy_timeout nothing is stored, which is told as something that passes; then it goes on."""
    path = tmp_path / "events.db"
    async with started(path, busy_timeout=0.1) as adapter:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            results = await adapter.publish([message(), message()])
            assert [(type(each), each.transient) for each in results] == [(PublishFailed, True)] * 2  # type: ignore[union-attr]
            assert "another process has been writing for longer than busy_timeout" in str(results[0])
            assert "is locked" in str(adapter.degraded)
            db.execute("ROLLBACK")
        assert await adapter.publish([message()]) == [None]
        await until(lambda: adapter.degraded is None, "all is well")
    assert ask(path, "SELECT count(*) FROM promenade_event") == [(1,)]


async def test_a_full_disk(tmp_path: Path) -> None:
    """Events that do not fit fail definitely, others are stored; with more room all are."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        worker = adapter.running.worker
        (pages,) = await worker.read(lambda db: db.execute("PRAGMA page_count").fetchone())
        await worker.read(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone())
        big = message(1, body=b"x" * 100_000)
        small, refused = await adapter.publish([message(0), big])
        assert small is None
        assert isinstance(refused, PublishFailed)
        assert refused.transient
        assert "cannot grow: the disk, a quota or max_page_count is full" in str(refused)
        await worker.read(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchone())
        assert await adapter.publish([big]) == [None]
    assert ask(path, "SELECT key FROM promenade_event ORDER BY seq") == [("0",), ("1",)]


class Broken:
    """A connection whose next commit reports an error of the disk, after it was done or in place of it."""

    def __init__(self, db: sqlite3.Connection, *, stored: bool) -> None:
        self.db = db
        self.stored = stored
        self.left = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement == "COMMIT" and self.left:
            self.left -= 1
            if self.stored:
                self.db.execute("COMMIT")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return self.db.execute(statement, *values)


@pytest.mark.parametrize("stored", [True, False])
async def test_a_disk_that_fails_in_a_commit(tmp_path: Path, stored: bool) -> None:
    """Nobody knows whether it is stored: that is said, nothing is stored twice, and the next one works."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        worker = adapter.running.worker
        await worker.read(lambda db: setattr(worker, "_db", Broken(db, stored=stored)))
        results = await adapter.publish([message(1), message(2)])
        assert [type(each) for each in results] == [PublishUncertain] * 2
        assert "SQLITE_IOERR_FSYNC" in str(results[0])
        assert await adapter.publish([message(3)]) == [None]
    keys = [key for (key,) in ask(path, "SELECT key FROM promenade_event ORDER BY seq")]
    assert keys == (["1", "2", "3"] if stored else ["3"])


@pytest.mark.once
@pytest.mark.parametrize("mode", ["group", "broadcast"])
@pytest.mark.parametrize("stored", [True, False])
async def test_a_claim_whose_commit_fails(tmp_path: Path, stored: bool, mode: Any) -> None:
    """Its events come with the next call, stored or not, and a broadcast that is taken for dead goes on."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        consumer = await adapter.open_consumer(spec(mode=mode))
        await adapter.publish([message(1), message(2)])
        worker = adapter.running.worker
        await worker.read(lambda db: setattr(worker, "_db", Broken(db, stored=stored)))
        with pytest.raises(SqliteFailure, match="SQLITE_IOERR_FSYNC"):
            await consumer.receive(2)
        received = await receive(consumer, 2)
        assert [each.message.key for each in received] == ["1", "2"]
        if mode == "broadcast":
            for table in ("subscription", "delivery", "owner"):
                ask(path, f"DELETE FROM promenade_{table}")
            await adapter.publish([message(3)])
            found = await receive(consumer, 3 if stored else 1)
            assert [each.message.key for each in found] == (["1", "2", "3"] if stored else ["3"])
        assert await consumer.settle(acks(received)) == [None, None]
        await consumer.close()


async def test_a_closed_worker(tmp_path: Path) -> None:
    """A call after the end is an error, and does not hang."""
    async with started(tmp_path / "events.db") as adapter:
        worker = adapter.running.worker
    with pytest.raises(SqliteFailure, match="is closed") as caught:
        await worker.write(lambda db: None)
    assert caught.value.kind is Kind.CLOSED


async def test_others_are_noticed(tmp_path: Path) -> None:
    """A consumer that waits is woken by what another process stores; an idle one looks now and then."""
    path = tmp_path / "events.db"
    async with started(path, poll=0.05) as one, started(path) as other:
        consumer = await one.open_consumer(spec())
        receiving = asyncio.create_task(consumer.receive(10))
        worker = one.running.worker
        began, looks = time.monotonic(), worker.looks
        await until(lambda: time.monotonic() - began > 1.0, "a second has passed")
        assert worker.looks - looks < 60  # 20 a second, after a quicker beginning
        assert not receiving.done()
        await other.publish([message(7)])
        async with asyncio.timeout(30):
            (received,) = await receiving
        assert received.message.key == "7"
        await consumer.settle(acks([received]))
        idle = worker.looks
        await consumer.close()
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.2, "some time has passed")
        assert worker.looks - idle < 5  # nobody waits for anything


async def test_commands_of_a_cancelled_caller_are_done(tmp_path: Path) -> None:
    """Cancelling one caller leaves the others of its transaction alone."""
    async with started(tmp_path / "events.db") as adapter:
        tasks = [asyncio.create_task(adapter.publish([message(number)])) for number in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each for each in results if not isinstance(each, BaseException)] == [[None]] * 9
        consumer = await adapter.open_consumer(spec())
        assert len(await receive(consumer, 10)) == 10
        await consumer.close()
