"""Mistakes that type checkers have to find, on exactly the lines that are marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import uuid4

import bus_core
import promenade_bus_testing
from bus_core import Delivery, Event, FrozenMapping, Topic, event, open_bus, open_sync_bus
from promenade_bus_testing import Failures, Journal, Recorder, SyncRecorder


@event
class UserRegistered(Event):
    """A person created an account."""

    email: str
    display_name: str = ""


@event
class DealWon(Event):
    """A deal was won."""

    amount: int


USER_REGISTERED = Topic("identity.user.registered", UserRegistered)
DEAL_WON = Topic("customer.deal.won", DealWon)

registered = UserRegistered(aggregate_id=uuid4(), email="a@b.c")
won = DealWon(aggregate_id=uuid4(), amount=5)

bus = open_bus({"bus": {"adapter": "memory"}})
sync_bus = open_sync_bus({"bus": {"adapter": "memory"}})


# --- names ------------------------------------------------------------------------------------------------

print(bus_core.OpenBus)  #: error
print(promenade_bus_testing.NoSuchRecorder)  #: error


# --- events -----------------------------------------------------------------------------------------------

UserRegistered(aggregate_id=uuid4(), email="a@b.c", nickname="a")  #: error
UserRegistered(aggregate_id=uuid4())  #: error
UserRegistered(aggregate_id=uuid4(), email=5)  #: error
UserRegistered(uuid4(), "a@b.c")  #: error
registered.email = "changed"  #: error
print(registered.nickname)  #: error

Topic("identity.user.registered", str)  #: error
Topic("customer.deal.won", DealWon, key=lambda won: won.amount)  #: error
Topic("customer.deal.won", DealWon, key=lambda won: won.email)  #: error


# --- handlers ---------------------------------------------------------------------------------------------


@bus.subscribe(USER_REGISTERED)  #: error
async def takes_another_event(event: DealWon) -> None: ...


@sync_bus.subscribe(USER_REGISTERED)  #: error
def takes_another_event_too(event: DealWon) -> None: ...


@bus.subscribe(USER_REGISTERED)  #: error
async def takes_something_else(event: UserRegistered, delivery: str) -> None: ...


@bus.subscribe(USER_REGISTERED)  #: error
async def takes_too_much(event: UserRegistered, delivery: Delivery, more: int) -> None: ...


@bus.subscribe(USER_REGISTERED)  #: error
async def takes_nothing() -> None: ...


@bus.subscribe(USER_REGISTERED, name="good")
async def good(event: UserRegistered) -> None: ...


async def won_handler(event: DealWon) -> None: ...


bus.subscribe(USER_REGISTERED, won_handler)  #: error
bus.subscribe(USER_REGISTERED, lambda event: event.amount)  #: error for pyright
bus.subscribe(USER_REGISTERED, good, where=lambda event: event.amount > 0)  #: error
bus.subscribe(USER_REGISTERED, good, nmae="good")  #: error
bus.subscribe(USER_REGISTERED, good, mode="all")  #: error
bus.subscribe(USER_REGISTERED, good, timeout="5s")  #: error
bus.subscribe(USER_REGISTERED, good, retry=3)  #: error
bus.subscribe(USER_REGISTERED, good, give_up_on="ValueError")  #: error
sync_bus.subscribe(USER_REGISTERED, won_handler)  #: error
sync_bus.subscribe(USER_REGISTERED, good, nmae="good")  #: error
sync_bus.subscribe(USER_REGISTERED, good, where=lambda event: event.amount > 0)  #: error


# --- calls ------------------------------------------------------------------------------------------------


async def calls() -> None:
    await bus.publish(USER_REGISTERED, won)  #: error
    await bus.publish("identity.user.registered", "a@b.c")  #: error
    await bus.publish(registered, USER_REGISTERED)  #: error
    await bus.publish(USER_REGISTERED, registered, headers={"attempt": 1})  #: error
    await bus.publish_many([(USER_REGISTERED, "a@b.c")])  #: error
    await bus.publish_many([registered])  #: error
    bus.publish_nowait(USER_REGISTERED, won)  #: error
    bus.publish(USER_REGISTERED, registered)  #: error
    bus.drain()  #: error
    await good(won)  #: error


def sync_calls() -> None:
    sync_bus.publish(USER_REGISTERED, won)  #: error
    sync_bus.publish_many([(USER_REGISTERED, "a@b.c")])  #: error


# --- ids, and what an event has frozen --------------------------------------------------------------------


@event
class OrderPlaced(Event[int]):
    """Its ids are ints."""

    lines: Sequence[str] = ()
    prices: Mapping[str, int] = FrozenMapping()


@event
class Measured(Event[float]):  #: error
    """No ids are floats."""


ORDER_PLACED = Topic("shop.order.placed", OrderPlaced)
placed = OrderPlaced(aggregate_id=7, lines=["a"])


async def with_uuid(event: UserRegistered) -> None: ...


OrderPlaced(aggregate_id=uuid4())  #: error
OrderPlaced(aggregate_id="7")  #: error
UserRegistered(aggregate_id=7, email="a@b.c")  #: error
placed.lines.append("b")  #: error
placed.lines[0] = "b"  #: error
placed.prices["a"] = 1  #: error
print(placed.aggregate_id.hex)  #: error
bus.subscribe(ORDER_PLACED, with_uuid, name="ids")  #: error


# --- the testing kit --------------------------------------------------------------------------------------


async def recorders(recorder: Recorder, sync_recorder: SyncRecorder, failures: Failures) -> None:
    recorder.expect(USER_REGISTERED, where=lambda event: event.amount > 0)  #: error
    recorder.expect(USER_REGISTERED, by="mail")  #: error
    print(recorder.expect(DEAL_WON).email)  #: error
    print(recorder.published(USER_REGISTERED)[0].amount)  #: error
    recorder.fail_next("mail", "down")  #: error
    recorder.wait_for(USER_REGISTERED)  #: error
    print((await recorder.wait_for(USER_REGISTERED))[0].amount)  #: error
    print(sync_recorder.wait_for(USER_REGISTERED)[0].amount)  #: error
    failures.expect("ConnectionError")  #: error


async def journals(journal: Journal) -> None:
    await journal.publish(bus, USER_REGISTERED, "a@b.c")  #: error
