"""Checks of the file: its properties, and the messages when they fail or change during use."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import attrs
import pytest

from bus_core import BaseEvent, HealthStatus, PublishError, PublishFailed, PublishUncertain, Topic
from bus_core.runtime import lease_clock
from promenade_bus_sqlite import file as file_module
from promenade_bus_sqlite.failures import Kind, SqliteFailure
from promenade_bus_sqlite.file import File, network_file_system
from support.consuming import TOPIC, acks, message, receive, spec
from support.sqlite_files import ask, make_bus, started

MOUNTS = r"""overlay / overlay rw 0 0
/dev/sda1 /data ext4 rw 0 0
server:/export /data/shared nfs4 rw 0 0
//nas/with\040space /mnt/with\040space cifs rw 0 0
"""


def _nothing_there(path: Path) -> Path:
    return path / "missing" / "events.db"


def _a_directory(path: Path) -> Path:
    return path


def _in_memory(_path: Path) -> Path:
    return Path(":memory:")


def _some_text(path: Path) -> Path:
    (path / "notes.txt").write_text("no database, but a text that is long enough to be one" * 100)
    return path / "notes.txt"


def _another_version(path: Path) -> Path:
    with closing(sqlite3.connect(path / "old.db")) as db, db:
        db.execute("CREATE TABLE promenade_meta (name TEXT PRIMARY KEY, value)")
        db.execute("INSERT INTO promenade_meta VALUES ('layout', 99)")
    return path / "old.db"


def _damaged(path: Path) -> Path:
    with closing(sqlite3.connect(path / "damaged.db")) as db, db:
        db.execute("CREATE TABLE customer (name)")
        db.executemany("INSERT INTO customer VALUES (?)", [("x" * 500,) for _ in range(100)])
    content = bytearray((path / "damaged.db").read_bytes())
    content[100:2000] = b"\xff" * 1900
    (path / "damaged.db").write_bytes(content)
    return path / "damaged.db"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (_nothing_there, r"there is no directory '.+missing'; create it, or change bus\.sqlite\.path"),
        (_a_directory, "is a directory: bus.sqlite.path must name a file in it"),
        (_in_memory, "for events in memory take the adapter 'memory'"),
        (_some_text, r"is not an SQLite database\. Change bus\.sqlite\.path, or move the file away"),
        (_another_version, r"layout 99, here 1\)\. Run that version until every event is handled"),
        (_damaged, r"is damaged\. Stop its users, copy it, and recover it"),
    ],
)
async def test_a_file_that_will_not_do(tmp_path: Path, place: Callable[[Path], Path], told: str) -> None:
    """The bus does not start, and the error names the file and says what to do."""
    path = place(tmp_path)
    with pytest.raises(SqliteFailure, match=told) as caught:
        async with started(path):
            pass
    assert f"the SQLite file {str(path)!r} " in str(caught.value)


async def test_an_old_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose SQLite is too old is told what it needs."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(SqliteFailure, match=r"needs SQLite 3\.35\.0 or newer, and this Python has"):
        async with started(tmp_path / "events.db"):
            pass


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/data/events", None),
        ("/data/shared", ("nfs4", "/data/shared")),
        ("/data/shared/deep/er", ("nfs4", "/data/shared")),
        ("/data/sharedless", None),
        ("/mnt/with space/bus", ("cifs", "/mnt/with space")),
        ("/elsewhere", None),
    ],
)
def test_network_file_systems_are_known(path: str, found: tuple[str, str] | None) -> None:
    """The innermost mount decides, and spaces in its name do not matter."""
    assert network_file_system(path, MOUNTS) == found


async def test_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that several machines could share is refused before anything is written."""
    monkeypatch.setattr(file_module, "network_file_system", lambda path, mounts: ("nfs4", "/mnt"))
    with pytest.raises(SqliteFailure, match=r"is on a network file system \(nfs4 at /mnt\)"):
        async with started(tmp_path / "events.db"):
            pass
    assert not (tmp_path / "events.db").exists()


async def test_a_file_without_the_right_to_write(tmp_path: Path) -> None:
    """A file that this user may only read is told at start."""
    path = tmp_path / "events.db"
    async with started(path):
        pass
    refused = pytest.raises(SqliteFailure, match="is read-only: let this user write")
    with without_the_right_to_write(tmp_path), refused:
        async with started(path):
            pass


@contextmanager
def without_the_right_to_write(directory: Path) -> Iterator[None]:
    """Nobody may write there, root included: it is somebody else meanwhile."""
    for each in directory.iterdir():
        each.chmod(0o444)
    directory.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        for parent in directory.parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(0o755)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        directory.chmod(0o755)


async def test_the_tables_of_an_application_are_left_alone(tmp_path: Path) -> None:
    """The bus may share the file of an application, whatever is in it."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, name TEXT)")
        db.execute("INSERT INTO event (name) VALUES ('a party')")
    async with started(path) as adapter:
        consumer = await adapter.open_consumer(spec())
        assert await adapter.publish([message(1)]) == [None]
        assert await consumer.settle(acks(await receive(consumer, 1))) == [None]
        await consumer.close()
    assert ask(path, "SELECT * FROM event") == [(1, "a party")]


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_file_that_goes_away(tmp_path: Path, how: str) -> None:
    """Nothing is accepted that would be stored in a file which nobody will ever read, and health names it."""
    path = tmp_path / "events.db"
    topic = Topic(TOPIC, BaseEvent)
    bus = make_bus(path, {"publish_timeout": "0.2s", "health": {"probes": ["sqlite"]}})
    async with bus:
        await bus.publish(topic, BaseEvent("thing.happened", uuid4()))
        path.unlink()
        if how == "replaced":
            path.write_bytes(b"")
        raised: list[type[PublishError]] = []
        for _ in range(3):
            with pytest.raises(PublishError, match="was deleted or replaced while the bus used it") as caught:
                await bus.publish(topic, BaseEvent("thing.happened", uuid4()))
            raised.append(type(caught.value))
        assert raised == [PublishUncertain, PublishFailed, PublishFailed]
        report = await bus.health()
        assert report.checks["sqlite"].status is HealthStatus.UNHEALTHY
        assert "was deleted or replaced" in report.checks["sqlite"].summary
        assert "was deleted or replaced" in str(bus.adapter.degraded)


@pytest.mark.once
async def test_no_message_is_at_fault_for_the_file(tmp_path: Path) -> None:
    """One that the file does not take now may be stored when the file is mended, unless none ever would."""
    path = tmp_path / "events.db"
    async with started(path) as adapter:
        ask(path, "ALTER TABLE promenade_event RENAME TO away")
        (refused,) = await adapter.publish([message(1)])
        assert isinstance(refused, PublishFailed)
        assert not refused.permanent
        ask(path, "ALTER TABLE away RENAME TO promenade_event")
        sound, odd = await adapter.publish([message(1), attrs.evolve(message(2), key="\ud800")])
    assert sound is None
    assert isinstance(odd, PublishFailed)
    assert odd.permanent
    assert [kind for kind in Kind if kind.is_of_value] == [Kind.TOO_LARGE]


async def test_processes_agree_on_the_time(tmp_path: Path) -> None:
    """The first process after a start of the machine notes the offset of its clock; all others take it."""
    path = tmp_path / "events.db"
    first, second = File(str(path)), File(str(path))
    first.prepare().close()
    ask(path, "UPDATE promenade_meta SET value = substr(value, 1, 37) || '12345.5' WHERE name = 'boot'")
    second.prepare().close()
    assert second.epoch == 12345.5
    assert second.now() - lease_clock() == pytest.approx(12345.5)


async def test_a_retry_waits_for_its_delay_at_most(tmp_path: Path) -> None:
    """A clock that was set while the machine was off keeps no retry waiting for longer than its delay."""
    path = tmp_path / "events.db"
    file = File(str(path))
    file.prepare().close()
    far = file.now() + 1e9
    ask(
        path,
        "INSERT INTO promenade_delivery (subscription, seq, owner, due, delay) VALUES (1, 1, 0, ?, 60)",
        far,
    )
    ask(path, "INSERT INTO promenade_delivery (subscription, seq, owner, due, delay) VALUES (1, 2, 0, 5, 60)")
    ask(path, "UPDATE promenade_meta SET value = 'another-start 1.0' WHERE name = 'boot'")
    again = File(str(path))
    again.prepare().close()
    dues = [due for (due,) in ask(path, "SELECT due FROM promenade_delivery ORDER BY seq")]
    assert dues[0] == pytest.approx(again.now() + 60, abs=5)
    assert dues[1] == 5
