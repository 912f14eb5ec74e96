from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bus_core import BusError, Outcome, Received, UnknownSubscription
from bus_core.config import format_duration
from promenade_bus_redis.groups_command import as_lines, groups_command
from promenade_bus_redis.streams.groups import GroupInUse, GroupReport
from redis_support.fixtures import SharedServer
from redis_support.streams import GROUP, TOPIC, Place, acks, buried, numbers, place_on, receive, spec, until

QUICK: dict[str, Any] = {"retention": {"min_age": "20ms", "orphaned_after": "100ms"}, "topic_refresh": "10ms"}


def released(batch: Sequence[Received]) -> list[Outcome]:
    return [Outcome("release", each.receipt) for each in batch]


async def only(place: Place) -> GroupReport:
    (report,) = await place.adapters[0].groups.list(count=True)
    return report


async def test_what_is_listed(redis_server: SharedServer) -> None:
    """A group is listed with what it has left to do, who serves it, and since when nobody does."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec("tests.*.happened"))
        await place.publish(*range(5))
        await until(lambda: TOPIC in consumer.feeds, "the topic is found")  # type: ignore[attr-defined]
        held = await receive(consumer, 2)
        await consumer.settle([Outcome("retry", held[0].receipt, 60.0, 2)])
        await until(lambda: adapter._running.leases.beats, "it has said that it lives")
        report = await only(place)
        assert (report.name, report.subscription, report.wanted_topic) == (
            GROUP, "listener", "tests.*.happened",
        )  # fmt: skip
        assert report.instances == (adapter._running.name,)
        assert report.state == "served"
        assert report.pending == len(place.pending())
        assert report.oldest_pending is not None
        assert 0 <= report.oldest_pending < 60
        assert report.backlog == 5
        assert report.lost == 0
        await consumer.settle(acks(held[1:]))
        await consumer.close()
        report = await only(place)
        assert (report.backlog, report.instances, report.state) == (4, (), "idle")


async def test_orphans(redis_server: SharedServer) -> None:
    """A group that no instance has wanted for long is an orphan, also one that somebody made by hand."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        consumer = await adapter.open_consumer(spec())
        place.ask("XGROUP", "CREATE", place.keys.stream(TOPIC), "by-hand", "0")
        await consumer.close()

        async def states() -> dict[str, str]:
            return {report.name: report.state for report in await adapter.groups.list()}

        async with asyncio.timeout(10):
            while await states() != {"by-hand": "orphaned", GROUP: "orphaned"}:
                pass
        record = await adapter._running.records.read(await adapter._running.alive())
        assert [part.group for part in record.orphans(0.1)] == ["by-hand", GROUP]


@pytest.mark.parametrize("ahead", [10_000, 31_536_000_000])
async def test_orphans_after_the_clock_went_back(redis_server: SharedServer, ahead: int) -> None:
    """A group that was last wanted at a time that is still to come is named after a while, too."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        await (await adapter.open_consumer(spec())).close()
        await adapter._running.records.announce_left()
        field = f"part {TOPIC} {GROUP}"
        number, seen, rest = place.ask("HGET", place.keys.record, field).split(" ", 2)
        place.ask("HSET", place.keys.record, field, f"{number} {int(seen) + ahead} {rest}")
        async with asyncio.timeout(30):
            while [report.state for report in await adapter.groups.list()] != ["orphaned"]:
                pass


async def test_a_group_that_is_forgotten(redis_server: SharedServer) -> None:
    """Forgetting removes a group and all that waits for it, so that retention goes on."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(**QUICK)
        gone, stays = await adapter.open_consumer(spec(name="gone")), await adapter.open_consumer(spec())
        await place.publish(1, 2, 3)
        held = await receive(gone, 3)
        await gone.settle([Outcome("retry", held[0].receipt, 60.0, 2), *released(held[1:])])
        await gone.close()
        await stays.settle(acks(await receive(stays, 3)))
        with pytest.raises(GroupInUse, match=r"'tests.gone' was not forgotten: it has 3 unsettled events"):
            await adapter.groups.forget("tests.gone")
        assert {report.name for report in await adapter.groups.list()} == {"tests.gone", GROUP}
        done = await adapter.groups.forget("tests.gone", force=True)
        assert (done.topics, done.backlog) == ((TOPIC,), 3)
        assert [report.name for report in await adapter.groups.list()] == [GROUP]
        assert [key for key in redis_server.keys() if "gone" in key] == []  # noqa: SIM118
        await until(lambda: place.ask("XLEN", place.keys.stream(TOPIC)) == 0, "retention goes on", 40)
        with pytest.raises(UnknownSubscription, match=r"no group 'tests.gone' .*did you mean|no group"):
            await adapter.groups.forget("tests.gone")
        await stays.close()


async def test_a_group_that_is_served(redis_server: SharedServer) -> None:
    """A group that living instances serve is forgotten by force only; they make it again."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter(block="50ms")
        consumer = await adapter.open_consumer(spec())
        await place.publish(1)
        await consumer.settle(acks(await receive(consumer, 1)))
        with pytest.raises(GroupInUse, match=f"it is served by {adapter._running.name}"):
            await adapter.groups.forget(GROUP)
        await adapter.groups.forget(GROUP, force=True)
        assert numbers(await receive(consumer, 1)) == [1]
        await consumer.close()


# --- the command ------------------------------------------------------------------------------------------


async def command(config: Path, *arguments: str) -> Result:
    """Runs it as the command line does, in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(
        CliRunner().invoke, groups_command(), [*arguments, "--config", str(config)]
    )


async def test_the_command(redis_server: SharedServer, tmp_path: Path) -> None:
    """``promenade-bus groups`` lists groups for people and programs, and forgets one, or says why not."""
    config = tmp_path / "app.yaml"
    config.write_text(
        f"app: {{name: tests}}\nbus: {{adapter: redis, redis: {{url: '{redis_server.url}', "
        f"prefix: '{redis_server.prefix}', topic_refresh: 1s, retention: {{orphaned_after: 10ms}}}}}}\n"
    )
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        await place.publish(1, 2)
        await consumer.close()
        done = await command(config, "list")
        assert done.exit_code == 0, done.stderr
        header, row, remark, _, *wishes = done.stdout.splitlines()
        assert header.split()[:3] == ["GROUP", "TOPIC", "STATE"]
        assert row.split()[:6] == [GROUP, TOPIC, "orphaned", "0", "2", "0"]
        assert remark.startswith(f"orphaned: {GROUP} on {TOPIC}.")
        assert [line.split() for line in wishes] == [
            ["SERVICE", "MIN_AGE", "UNSUBSCRIBED", "DEAD", "LETTERS", "FOR"],
            ["tests", "1h", "7d", "for", "ever", "all", "events"],
        ]
        done = await command(config, "list", "--json")
        told = json.loads(done.stdout)
        (found,) = told["groups"]
        assert [each["service"] for each in told["services"]] == ["tests"]
        assert (found["group"], found["state"], found["backlog"]) == (GROUP, "orphaned", 2)
        done = await command(config, "forget", GROUP)
        assert done.exit_code == 1
        assert "it has 2 unsettled events" in done.stderr
        assert "--force" in done.stderr
        done = await command(config, "forget", GROUP, "--force")
        assert (done.exit_code, done.stdout) == (
            0,
            f"forgot {GROUP} on 1 topic; 2 events were not settled\n",
        )
        done = await command(config, "list")
        assert done.stdout.startswith("no groups on the server\n")
        await (await adapter.open_consumer(spec())).close()
        done = await command(config, "forget", GROUP, "--force", "--json")
        assert json.loads(done.stdout) == {"group": GROUP, "topics": [TOPIC], "unsettled": 2}
    config.write_text("bus: {adapter: memory}\n")
    done = await command(config, "list")
    assert isinstance(done.exception, BusError)
    assert "runs on 'memory', not on Redis streams" in str(done.exception)


async def test_lag_age_and_dead_letters(redis_server: SharedServer) -> None:
    """The list tells what a group has not read, since when, and how many of its letters there are."""
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        consumer = await adapter.open_consumer(spec())
        other = await adapter.open_consumer(spec(name="other"))
        await place.publish(1, 2)
        first, second = await receive(consumer, 2)
        await consumer.settle([buried(first), Outcome("ack", second.receipt)])
        await consumer.close()
        later = f"{int(time.time() * 1000) - 90_000}-1"
        found = {report.name: report for report in await adapter.groups.list(count=True)}
        assert (found[GROUP].unread, found[GROUP].oldest_unread, found[GROUP].dead) == (0, None, 1)
        of_other = found["tests.other"]
        assert (of_other.dead, of_other.backlog) == (0, 2)
        await other.close()
        place.ask("DEL", place.keys.stream(TOPIC))
        place.ask("XGROUP", "CREATE", place.keys.stream(TOPIC), GROUP, "0", "MKSTREAM")
        place.ask("XADD", place.keys.stream(TOPIC), later, "body", "x")
        found = {report.name: report for report in await adapter.groups.list(count=True)}
        age = found[GROUP].oldest_unread
        assert age is not None
        assert 90 <= age < 120
        lines = as_lines([found[GROUP]])
        assert lines[0].split()[5:11] == ["PENDING", "SINCE", "LAG", "OLDEST", "DEAD", "LOST"]
        assert lines[1].split()[8:10] == [format_duration(float(round(age))), "1"]


async def test_what_others_have_put_there(redis_server: SharedServer, tmp_path: Path) -> None:
    """Names and counts that are not the bus's command no terminal, and break neither the list nor health."""
    forged = "evil\n2026 CRITICAL\x1b[2J"
    config = tmp_path / "app.yaml"
    config.write_text(
        f"app: {{name: tests}}\nbus: {{adapter: redis, redis: {{url: '{redis_server.url}', "
        f"prefix: '{redis_server.prefix}'}}}}\n"
    )
    async with place_on(redis_server) as place:
        adapter = await place.adapter()
        await place.publish(1)
        place.ask("XGROUP", "CREATE", place.keys.stream(TOPIC), forged, "0")
        place.ask("HSET", place.keys.losses, f"{TOPIC} {forged}", 3, "others", "many", b"\xff", -7)
        assert await adapter.groups.losses() == {f"{TOPIC} {forged}": 3}
        done = await command(config, "list")
        assert done.exit_code == 0, done.stderr
        assert "evil\\n2026 CRITICAL\\x1b[2J" in done.stdout
        assert all(line.isprintable() for line in done.stdout.split("\n"))
        done = await command(config, "forget", forged)
        assert done.exit_code == 1
        assert all(line.isprintable() for line in done.stderr.split("\n"))
