"""Code of users with the testing kit: the recorder knows the class of every topic's events."""

from __future__ import annotations

import asyncio
from typing import assert_type
from uuid import uuid4

import pytest

from bus_core import Bus, Event, SyncBus, Topic, event
from promenade_bus_testing import (
    Account,
    Failed,
    Failures,
    Journal,
    Recorder,
    SyncRecorder,
    VirtualClock,
    isolated_bus,
    isolated_sync_bus,
    recording,
    sync_recording,
)


@event
class UserRegistered(Event):
    """A person created an account."""

    email: str


USER_REGISTERED = Topic("identity.user.registered", UserRegistered)
registered = UserRegistered(aggregate_id=uuid4(), email="a@b.c")


@pytest.mark.promenade(allow_failures=True, retry_attempts=1)
async def test_fixtures(
    bus: Bus, recorder: Recorder, bus_failures: Failures, virtual_clock: VirtualClock
) -> None:
    assert_type(recorder.expect(USER_REGISTERED), UserRegistered)
    assert_type(recorder.expect(USER_REGISTERED, where=lambda event: event.email == "a"), UserRegistered)
    assert_type(recorder.expect(USER_REGISTERED, where={"email": "a@b.c"}), UserRegistered)
    assert_type(recorder.expect("identity.#"), Event)
    assert_type(recorder.expect_handled(USER_REGISTERED, by="mail"), UserRegistered)
    assert_type(recorder.published(USER_REGISTERED), list[UserRegistered])
    assert_type(recorder.published(), list[Event])
    assert_type(recorder.handled(USER_REGISTERED, by="mail"), list[UserRegistered])
    assert_type(await recorder.wait_for(USER_REGISTERED, 2, timeout=1), list[UserRegistered])
    assert_type(await recorder.wait_for("#", by="mail"), list[Event])
    assert_type(bus_failures.all, list[Failed])
    bus_failures.expect((ConnectionError, TimeoutError), topic=USER_REGISTERED, match="down", times=2)
    recorder.expect_nothing(USER_REGISTERED, lambda event: event.email == "")
    recorder.fail_next("mail", ConnectionError, times=2)
    recorder.fail_next("mail", ConnectionError("down"))
    await virtual_clock.run(bus.drain())
    assert_type(await virtual_clock.run(asyncio.sleep(0, "done")), str)


def test_sync_fixtures(sync_bus: SyncBus, sync_recorder: SyncRecorder) -> None:
    assert_type(sync_recorder.wait_for(USER_REGISTERED, 2), list[UserRegistered])
    assert_type(sync_recorder.expect(USER_REGISTERED), UserRegistered)


async def without_fixtures() -> None:
    async with isolated_bus(retry_attempts=2, clock=VirtualClock()) as bus, recording(bus) as recorder:
        assert_type(bus, Bus)
        assert_type(recorder, Recorder)
    with isolated_sync_bus() as sync_bus, sync_recording(sync_bus) as sync_recorder:
        assert_type(sync_bus, SyncBus)
        assert_type(sync_recorder, SyncRecorder)


async def journals(bus: Bus) -> None:
    with Journal("journals", "worker") as journal:
        await journal.publish(bus, USER_REGISTERED, registered)
        await journal.finish(bus)
    assert_type(Account.of("journals", duplicates=2).adds_up, bool)
