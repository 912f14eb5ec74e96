"""``promenade-bus outbox``: what waits, and a relay as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from bus_core import Bus, open_bus
from outbox_support.stage import MOVED, Moved, Stage, seen, until
from promenade_bus_cli.main import cli
from promenade_bus_outbox import Outbox
from redis_support.fixtures import SharedServer
from support.remote import Server, refuse_events, running_remote_bus

pytestmark = pytest.mark.once

APPLICATION = """
from uuid import UUID
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy import MetaData
from sqlalchemy.pool import NullPool
from bus_core import open_bus
from promenade_bus_outbox import Outbox, outbox_tables
engine = create_async_engine({url!r}, poolclass=NullPool)
outbox = Outbox(open_bus("app.yaml"), async_sessionmaker(engine), outbox_tables(MetaData()), relay=False)
"""


def moved(number: int = 0) -> Moved:
    return Moved(aggregate_id=uuid4(), number=number)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["outbox", *arguments], prog_name="promenade-bus")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(directory: Path, **bus: Any) -> None:
    (directory / "app.yaml").write_text(json.dumps({"app": {"name": "shop"}, "bus": bus}))


async def test_the_status_tells_what_waits_in_which_partition(bus: Bus, stage: Stage, tmp_path: Path) -> None:
    """As a table, and as JSON; by any driver."""
    outbox = Outbox(bus, stage.sessions, stage.tables, relay=False)
    events = [moved(number) for number in range(3)]
    await stage.publish(outbox, *events)
    done = await asyncio.to_thread(command, "status", "--database", stage.url)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("3 events wait, the oldest for ")
    assert lines[1] == "no relay runs; start one with 'promenade-bus outbox relay'"
    assert lines[3].split() == ["PARTITION", "WAITING", "OLDEST", "RELAY"]
    done = await asyncio.to_thread(command, "status", "--database", stage.url, "--json")
    found = json.loads(done.stdout)
    assert (found["waiting"], found["refused"], found["blocked_by"], found["relays"]) == (3, 0, None, 0)
    assert sum(each["waiting"] for each in found["partitions"]) == 3


async def test_the_status_names_what_holds_events_up(bus: Bus, postgres: Stage, tmp_path: Path) -> None:
    """And what the bus has refused, with the cause."""
    outbox = Outbox(bus, postgres.sessions, postgres.tables, relay=False)
    postgres.execute(
        "INSERT INTO promenade_outbox (transaction_id, partition, event_id, topic, key, body, written_at, "
        "refused_at, cause) VALUES (0, 0, 'e1', 't', 'k', '', now(), now(), 'PublishFailed: too large')"
    )
    with postgres.connect() as connection, connection.begin():
        pid = connection.exec_driver_sql("SELECT pg_backend_pid(), pg_current_xact_id()").one()[0]
        await postgres.publish(outbox, moved())
        done = await asyncio.to_thread(command, "status", "--database", postgres.url)
    assert done.exit_code == 0, done.stderr
    assert f"1 of them wait for the transaction of process {pid}, 'promenade'" in done.stdout
    assert "1 events were refused by the bus for good, and were set aside:" in done.stdout
    assert "PublishFailed: too large" in done.stdout


async def test_what_was_set_aside_is_listed_and_given_back(async_stage: Stage, tmp_path: Path) -> None:
    """With its cause, and to the relay, which delivers it again."""
    server = Server()
    events = [moved(number) for number in range(3)]
    refused = {str(event.event_id) for event in events}
    refuse_events(server, refused)
    where = ("--database", async_stage.url)
    async with (
        running_remote_bus(server) as bus,
        Outbox(bus, async_stage.sessions, async_stage.tables) as outbox,
    ):
        await async_stage.publish(outbox, *events)
        await seen(outbox, lambda status: status.refused == 3)
        listed = await asyncio.to_thread(command, "refused", *where, "--json")
        found = json.loads(listed.stdout)
        assert [(each["event_id"], each["cause"]) for each in found] == [
            (str(event.event_id), "PublishFailed: too large") for event in events
        ]
        first, *_ = positions = [str(each["position"]) for each in found]
        done = await asyncio.to_thread(command, "refused", *where, "--limit", "1")
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["POSITION", first]
        refused.clear()
        done = await asyncio.to_thread(command, "retry", *where, first, "999")
        assert (done.exit_code, done.stdout) == (1, "1 events wait for the relay again\n")
        assert "1 of these positions have no event that was set aside" in done.stderr
        done = await asyncio.to_thread(command, "retry", *where, "--all")
        assert (done.exit_code, done.stdout) == (0, "2 events wait for the relay again\n")
        await until(lambda: async_stage.waiting() == 0, "everything is delivered")
    assert len(positions) == len(server.log) == 3
    done = await asyncio.to_thread(command, "refused", *where)
    assert done.stdout == "no event was set aside\n"


async def test_a_relay_runs_as_a_process_of_its_own(
    async_stage: Stage, tmp_path: Path, redis_server: SharedServer
) -> None:
    """It delivers what an application has written, and gives its leases up when it is told to stop."""
    redis = {"url": redis_server.url, "prefix": redis_server.prefix}
    write_config(tmp_path, adapter="redis", redis=redis)
    got: list[int] = []
    async with open_bus(str(tmp_path / "app.yaml")) as bus:

        @bus.subscribe(MOVED, name="looking")
        async def look(event: Moved) -> None:
            got.append(event.number)

        outbox = Outbox(bus, async_stage.sessions, async_stage.tables, relay=False)
        await async_stage.publish(outbox, *(moved(number) for number in range(10)))
        given = ["--database", async_stage.url, "--config", "app.yaml"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bus_core", "outbox", "relay", *given),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            await until(lambda: len(got) == 10, "everything is handled", 60)
            await until(lambda: async_stage.waiting() == 0, "the rows are deleted", 60)
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    assert "delivering the events of shop to 'redis'" in text
    assert "delivered 10 events" in text
    owner = async_stage.tables.partitions.c.owner
    assert async_stage.rows(async_stage.tables.partitions.select().where(owner.is_not(None))) == []


async def test_an_application_names_its_outbox(bus: Bus, sqlite: Stage, tmp_path: Path) -> None:
    """The status is that of its database; its bus in memory has nobody to deliver to in another process."""
    write_config(tmp_path, adapter="memory")
    (tmp_path / "shop.py").write_text(APPLICATION.format(url=sqlite.url))
    await sqlite.publish(Outbox(bus, sqlite.sessions, sqlite.tables, relay=False), moved())
    done = await asyncio.to_thread(command, "status", "--outbox", "shop:outbox")
    assert done.stdout.startswith("1 events wait"), done.stderr
    done = await asyncio.to_thread(command, "relay", "--outbox", "shop:outbox")
    assert done.exit_code != 0
    assert "the bus runs on 'memory', which hands events to handlers of this process only" in done.stderr
    assert "run the relay inside of the application" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["status"], "which outbox? Give --outbox MODULE:ATTR or --database URL"),
        (["status", "--database", "nonsense"], "the database URL cannot be used"),
        (["status", "--database", "mysql+nodriver://x/y"], "the database URL cannot be used"),
        (["status", "--database", "sqlite:///empty.db"], "has no table 'promenade_outbox'"),
        (["status", "--outbox", "os:sep"], "os:sep is an object of type str; it has to be an Outbox"),
        (["status", "--outbox", "os:sep", "--database", "sqlite://"], "exclude each other"),
        (["relay", "--database", "sqlite:///empty.db"], "to which bus? Give --config FILE"),
        (["retry", "--database", "sqlite:///empty.db"], "which events? Give each POSITION"),
        (["retry", "--database", "sqlite:///empty.db", "--all", "1"], "which events? Give each POSITION"),
        (
            ["relay", "--database", "sqlite:///empty.db", "--config", "app.yaml"],
            "run the relay inside of the",
        ),
    ],
    ids=str,
)
def test_a_command_that_cannot_work_says_why(tmp_path: Path, arguments: list[str], text: str) -> None:
    """In one message, and not with a traceback."""
    write_config(tmp_path, adapter="memory")
    done = command(*arguments)
    assert done.exit_code == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["status", "refused", "relay"])
@pytest.mark.parametrize("url", ["sqlite:///there-is-none/app.db", "postgresql://app@127.0.0.1:1/shop"])
def test_a_database_that_cannot_be_reached_is_no_mistake_in_the_command(
    tmp_path: Path, name: str, url: str
) -> None:
    """The exit status is that of a server that cannot be reached."""
    write_config(tmp_path, adapter="sqlite", sqlite={"path": "events.db"})
    done = command(name, "--database", url, *(["--config", "app.yaml"] if name == "relay" else []))
    assert done.exit_code == 4
    assert "the database cannot be read: Opera" in done.stderr


@pytest.mark.parametrize("name", ["status", "refused"])
def test_a_failure_is_told_as_json(name: str) -> None:
    """A program that asks for JSON gets a document, as from the commands of the command line itself."""
    done = command(name, "--database", "sqlite:///there-is-none/app.db", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["status"], error["kind"]) == (4, 4, "unreachable")
