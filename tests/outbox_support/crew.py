"""A crew of processes on one database: writers, relays and handlers, which are killed again and again.

``python -m outbox_support.crew`` with the plan as JSON prints the account as JSON. It forks, and therefore
has no threads: each process of the crew opens its own bus and database.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar
from uuid import UUID

import attrs
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from bus_core import Bus, open_bus
from outbox_support.stage import MOVED, Effect, Moved, Stage, Thing
from promenade_bus_outbox import DriverDatabase, Inbox, Outbox, OutboxConnection, OutboxRelay
from promenade_bus_outbox.database import Database

T = TypeVar("T")

_MOST_STEPS: Final = 40
"""A process that is to die does so at one of so many steps."""

_PATIENCE: Final = 60.0
"""Seconds without any progress until a crew is given up."""


@attrs.frozen(kw_only=True)
class Plan:
    """The plan of a crew: ``kills`` relays die between two steps, of ``relays`` that run at a time."""

    url: str
    redis: str
    prefix: str
    seed: int
    kills: int
    relays: int = 3
    writers: int = 2
    transactions: int = 40
    things: int = 6
    handler_kills: int = 2


# --- the processes ----------------------------------------------------------------------------------------


class Steps:
    """Counts the steps of this process, and ends it at one of them."""

    def __init__(self, last: int | None) -> None:
        self._left = last

    def __call__(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def die_at(last: int | None) -> None:
    """From now on each transaction and each publish are steps: before, in the middle, and after."""
    step = Steps(last)
    publish = Bus.publish_prepared

    def counted(run: Any) -> Any:
        async def counted_run(self: Any, work: Callable[[OutboxConnection], T]) -> T:
            def inside(connection: OutboxConnection) -> T:
                result = work(connection)
                step()
                return result

            step()
            result: T = await run(self, inside)
            step()
            return result

        return counted_run

    async def counted_publish(self: Bus, messages: Any) -> None:
        step()
        await publish(self, messages)
        step()

    for database in (Database, DriverDatabase):
        database.run = counted(database.run)  # type: ignore[method-assign]
    Bus.publish_prepared = counted_publish  # type: ignore[method-assign]


def bus_of(plan: Plan) -> Bus:
    """A bus on the Redis server of the plan.

    A killed handler costs an attempt of each event that it held. No event may become a dead letter by that.
    A dead letter frees its key, and the next copy from a killed relay would be handled after later events.
    """
    redis = {"url": plan.redis, "prefix": plan.prefix, "lease": "1s", "block": "100ms"}
    return open_bus(
        {"app": {"name": "crew"}, "bus": {"adapter": "redis", "retry_attempts": 1000, "redis": redis}}
    )


def stage_of(plan: Plan) -> Stage:
    """The database, with the patience that several writers need."""
    sqlite = plan.url.startswith("sqlite")
    stage = Stage(plan.url, **({"connect_args": {"timeout": 60}} if sqlite else {"pool_size": 3}))
    if sqlite:

        @event.listens_for(stage.engine, "connect")
        def set_up(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA synchronous = NORMAL")

    return stage


async def relay(plan: Plan, last: int | None) -> None:
    """Delivers until it is killed."""
    die_at(last)
    stage = stage_of(plan)
    async with bus_of(plan) as bus, Outbox(bus, stage.sessions, stage.tables, batch=20, poll=0.04, lease=0.6):
        await asyncio.Event().wait()


async def relay_alone(plan: Plan, last: int | None) -> None:
    """The same with a driver, and without SQLAlchemy."""
    die_at(last)
    database = stage_of(plan).driver_database()
    async with bus_of(plan) as bus, OutboxRelay(bus, database, batch=20, poll=0.04, lease=0.6):
        await asyncio.Event().wait()


async def handle(plan: Plan, _last: int | None) -> None:
    """Handles until it is killed: a row for each event, and its mark."""
    stage = stage_of(plan)
    bus = bus_of(plan)
    inbox = Inbox(stage.sessions, stage.tables)

    @bus.subscribe(MOVED, name="book", ordered=True)
    @inbox.handler
    async def book(event: Moved, session: AsyncSession) -> None:
        session.add(Effect(subscription="book", aggregate=str(event.aggregate_id), number=event.number))

    async with bus:
        await asyncio.Event().wait()


async def write(plan: Plan, number: int | None) -> None:
    """Moves things: each step is counted in its row, whose lock orders the steps, and is an event.

    Some transactions are rolled back, some take long, and some write to other things first, so that they
    began before those that are committed before them.
    """
    chance = random.Random(f"{plan.seed}-{number}")
    stage = stage_of(plan)
    outbox = Outbox(bus_of(plan), stage.sessions, stage.tables, relay=False)
    done = 0
    while done < plan.transactions:
        try:
            async with stage.sessions.begin() as session:
                if stage.is_postgres and chance.random() < 0.3:
                    await session.execute(text("SELECT pg_current_xact_id()"))
                    await asyncio.sleep(chance.random() * 0.03)
                thing = chance.randrange(plan.things)
                step = await session.scalar(
                    update(Thing)
                    .where(Thing.id == thing)
                    .values(number=Thing.number + 1)
                    .returning(Thing.number)
                )
                assert step is not None
                await outbox.publish(session, MOVED, Moved(aggregate_id=UUID(int=thing), number=step))
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.random() * 0.03)
                if chance.random() < 0.15:
                    await session.rollback()
        except DBAPIError as error:
            if "locked" not in str(error):
                raise
        done += 1
        await asyncio.sleep(0)
    await stage.close()


# --- the crew ---------------------------------------------------------------------------------------------

Role = Callable[[Plan, "int | None"], Coroutine[Any, Any, None]]

RELAYS: Final[tuple[Role, ...]] = (relay, relay_alone)
"""They take turns, and share the keys with each other."""


class Crew:
    """Forks the processes, and takes a new one for each that was killed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.processes: dict[int, Role] = {}
        self.deaths = 0
        self.relays = 0
        self.failures: list[str] = []

    def fork(self, role: Role, argument: int | None) -> None:
        """Starts a process of a role."""
        pid = os.fork()
        if pid:
            self.processes[pid] = role
            return
        status = 1
        try:
            asyncio.run(role(self.plan, argument))
            status = 0
        finally:
            os._exit(status)

    def fork_relay(self) -> None:
        """Another relay, which dies at some step as long as there are deaths left."""
        alive = sum(1 for role in self.processes.values() if role in RELAYS)
        dies = self.deaths + alive < self.plan.kills
        role = RELAYS[self.relays % len(RELAYS)]
        self.relays += 1
        self.fork(role, self.chance.randint(1, _MOST_STEPS) if dies else None)

    def reap(self) -> None:
        """Notices what has ended."""
        while self.processes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            role = self.processes.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code == -signal.SIGKILL and role in RELAYS:
                self.deaths += 1
                self.fork_relay()
            elif code == -signal.SIGKILL and role is handle:
                self.fork(handle, None)
            elif code != 0:
                self.failures.append(f"{role.__name__} ended with {code}")

    def kill(self, role: Role) -> None:
        """Ends one process of a role."""
        for pid, each in self.processes.items():
            if each is role:
                os.kill(pid, signal.SIGKILL)
                return

    def end(self) -> None:
        """Ends all of them."""
        for pid in self.processes:
            os.kill(pid, signal.SIGKILL)
        for pid in self.processes:
            os.waitpid(pid, 0)
        self.processes.clear()


class Progress:
    """Notices when nothing happens any more, however slow the machine is."""

    def __init__(self) -> None:
        self._seen: object = None
        self._since = time.monotonic()
        self._look_at = 0.0

    def is_over(self, crew: Crew, stage: Stage) -> bool:
        """True if no process has died, and nobody has written anything, for the time of the patience."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + 1.0
        numbers = stage.rows(select(Thing.id, Thing.number))
        seen = (
            crew.deaths,
            stage.waiting(),
            len(stage.rows(select(Effect.id))),
            [tuple(row) for row in numbers],
        )
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since > _PATIENCE


def run(plan: Plan) -> dict[str, Any]:
    """The account of a plan."""
    looking = Stage(plan.url)
    if plan.url.startswith("sqlite"):
        with looking.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    looking.create()
    things = [{"id": number, "name": "", "number": 0} for number in range(plan.things)]
    with looking.connect() as connection, connection.begin():
        connection.execute(insert(Thing), things)
    asyncio.run(_warm_up(plan))
    crew = Crew(plan)
    # What the processes share is not written to by their collections of garbage, and so it is not copied.
    gc.collect()
    gc.freeze()
    began = time.monotonic()
    progress = Progress()
    try:
        crew.fork(handle, None)
        for number in range(plan.writers):
            crew.fork(write, number)
        for _ in range(plan.relays):
            crew.fork_relay()
        handler_kills = 0
        while not _is_over(plan, crew, looking):
            crew.reap()
            if progress.is_over(crew, looking):
                crew.failures.append(f"nothing has happened for {_PATIENCE:g} s")
                break
            if handler_kills < plan.handler_kills and crew.deaths > (handler_kills + 1) * 4:
                handler_kills += 1
                crew.kill(handle)
            time.sleep(0.005)
    finally:
        crew.end()
    return _account(looking, crew, time.monotonic() - began)


async def _warm_up(plan: Plan) -> None:
    """Imports once what each process would import."""
    stage = stage_of(plan)
    async with bus_of(plan) as bus, Outbox(bus, stage.sessions, stage.tables):
        pass
    await stage.close()


def _is_over(plan: Plan, crew: Crew, stage: Stage) -> bool:
    if write in crew.processes.values() or crew.deaths < plan.kills:
        return bool(crew.failures)
    if stage.waiting():
        return bool(crew.failures)
    written = sum(number for _, number in stage.rows(select(Thing.id, Thing.number)))
    handled = len(stage.rows(select(Effect.id)))
    return handled >= written or bool(crew.failures)


def _account(stage: Stage, crew: Crew, seconds: float) -> dict[str, Any]:
    wrong: list[str] = []
    events = 0
    for thing, number in stage.rows(select(Thing.id, Thing.number)):
        events += number
        effects = [
            row.number
            for row in stage.rows(
                select(Effect.number).where(Effect.aggregate == str(UUID(int=thing))).order_by(Effect.id)
            )
        ]
        if effects != [*range(1, number + 1)]:
            wrong.append(f"thing {thing} was moved {number} times, and its effects are {effects}")
    return {
        "events": events,
        "deaths": crew.deaths,
        "waiting": stage.waiting(),
        "wrong": wrong,
        "failures": crew.failures,
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    print(json.dumps(run(Plan(**json.loads(sys.argv[1])))))
