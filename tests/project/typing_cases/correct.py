"""Code of users that every type checker has to accept."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from typing import Annotated, Any, NewType, assert_type
from uuid import UUID, uuid4

from bus_core import (
    BaseEvent,
    Bus,
    DeadLetter,
    DeadLetterPage,
    Delivery,
    DrainReport,
    Envelope,
    Event,
    ExponentialRetry,
    FrozenMapping,
    Handler,
    HealthReport,
    HealthStatus,
    JsonForm,
    NoRetry,
    Personal,
    PublishManyError,
    Subscription,
    SyncBus,
    SyncSubscription,
    Topic,
    TopicCatalogue,
    event,
    open_bus,
    open_sync_bus,
)


@event
class UserRegistered(Event):
    """A person created an account."""

    email: Personal[str]
    display_name: str = ""


@event(type="deal.won", version=2)
class DealWon(Event):
    """A deal was won."""

    amount: int
    tags: tuple[str, ...] = ()


USER_REGISTERED = Topic("identity.user.registered", UserRegistered)
DEAL_WON = Topic("customer.deal.won", DealWon, key=lambda won: str(won.amount))
CATALOGUE = TopicCatalogue("customer", [DEAL_WON])

registered = UserRegistered(aggregate_id=uuid4(), email="a@b.c")
won = DealWon(aggregate_id=uuid4(), amount=5, tags=("big",), metadata={"by": "me"})

assert_type(USER_REGISTERED, Topic[UserRegistered])
assert_type(registered.email, str)
assert_type(registered.aggregate_id, UUID)
assert_type(registered.occurred_at, datetime)
assert_type(registered.metadata, Mapping[str, str])
assert_type(won.tags, tuple[str, ...])


# --- handlers ---------------------------------------------------------------------------------------------

bus = open_bus("config/app.sqlite-dev.yaml")
assert_type(bus, Bus)


@bus.subscribe(USER_REGISTERED, name="welcome-mail", timeout=timedelta(seconds=5), retry=NoRetry())
async def send_welcome(event: UserRegistered) -> None:
    """Handles one event."""


@bus.subscribe(USER_REGISTERED, where=lambda event: event.email != "", give_up_on=(ValueError,))
async def with_delivery(event: UserRegistered, delivery: Delivery) -> int:
    assert_type(delivery.attempt, int)
    return delivery.attempt


@bus.subscribe(DEAL_WON, ordered=True, concurrency=2, start="latest")
def in_a_thread(event: DealWon) -> str:
    return str(event.amount)


@bus.subscribe("customer.#", mode="broadcast")
async def any_event(event: Event, delivery: Delivery) -> None:
    """A pattern's events are of any class."""


@bus.subscribe("customer.deal.won")
async def by_name(event: DealWon) -> None:
    """With a name the checker takes the handler's word for the class."""


async def base_class(event: Event) -> None:
    """A handler of a base class handles the events of its subclasses."""


async def with_default(event: UserRegistered, retries: int = 3) -> None:
    """Parameters with defaults do not matter."""


async def any_number(*arguments: Any) -> None:
    """Neither do those that take anything."""


async def with_more(prefix: str, event: UserRegistered) -> None:
    """Needs something that the bus does not pass."""


class Service:
    """Handlers as methods and objects."""

    async def handle(self, event: UserRegistered) -> None: ...
    async def handle_with_delivery(self, event: UserRegistered, delivery: Delivery) -> None: ...
    async def __call__(self, event: DealWon) -> None: ...


assert_type(bus.subscribe(USER_REGISTERED, send_welcome), Subscription)
bus.subscribe(USER_REGISTERED, base_class, name="base", retry=ExponentialRetry(attempts=5))
bus.subscribe(USER_REGISTERED, with_default)
bus.subscribe(USER_REGISTERED, any_number)
bus.subscribe(USER_REGISTERED, functools.partial(with_more, "prefix"))
bus.subscribe(USER_REGISTERED, Service().handle)
bus.subscribe(USER_REGISTERED, Service().handle_with_delivery)
bus.subscribe(DEAL_WON, Service())
bus.subscribe(DEAL_WON, lambda event: print(event.amount))
bus.subscribe("#", base_class, name=None, timeout=5)

# The decorator keeps what the handler takes and returns.
send: Callable[[UserRegistered], Awaitable[None]] = send_welcome
count: Callable[[UserRegistered, Delivery], Awaitable[int]] = with_delivery
text: Callable[[DealWon], str] = in_a_thread
assert_type(in_a_thread(won), str)


# --- calls ------------------------------------------------------------------------------------------------


async def calls() -> None:
    async with bus as opened:
        assert_type(opened, Bus)
        await bus.publish(USER_REGISTERED, registered)
        await bus.publish(USER_REGISTERED, registered, headers={"trace": "1"})
        await bus.publish("identity.user.registered", registered)
        await bus.publish("script.done", BaseEvent("done", uuid4(), data={"number": 1}))
        await bus.publish_many([(USER_REGISTERED, registered), (USER_REGISTERED, registered)])
        await bus.publish_many([(USER_REGISTERED, registered), (DEAL_WON, won), ("customer.deal.won", won)])
        await bus.publish_many((DEAL_WON, won) for _ in range(3))
        bus.publish_nowait(DEAL_WON, won)
        async with bus.after_commit():
            await bus.publish(DEAL_WON, won)
        await bus.drain(timeout=timedelta(seconds=1))
        report = await bus.health()
        assert_type(report, HealthReport)
        assert_type(report.status, HealthStatus)
        subscription = bus.subscribe(DEAL_WON, in_a_thread)
        await subscription.ready()
        subscription.pause()
        await subscription.unsubscribe()
        await bus.unsubscribe(DEAL_WON, in_a_thread)
        letters = await bus.dead_letters.list(topic="customer.deal.won", limit=5)
        assert_type(letters, DeadLetterPage)
        assert_type(letters.next_cursor, str | None)
        await bus.dead_letters.list(cursor=letters.next_cursor)
        assert_type(await bus.dead_letters.count(subscription="crm"), int)
        async for letter in bus.dead_letters.iterate(topic="customer.deal.won"):
            assert_type(letter, DeadLetter)
        await bus.dead_letters.redrive(letters)
        await send_welcome(registered)
        assert_type(await with_delivery(registered, await delivery_of()), int)
        assert_type(await bus.close(timeout=1.5), DrainReport)
    try:
        await bus.publish_many([])
    except PublishManyError as error:
        assert_type(error.results, tuple[Exception | None, ...])


async def delivery_of() -> Delivery:
    raise NotImplementedError


def logging_middleware(call_next: Handler) -> Handler:
    async def handle(envelope: Envelope) -> None:
        await call_next(envelope)

    return handle


# --- threads ----------------------------------------------------------------------------------------------

sync_bus = open_sync_bus({"bus": {"adapter": "memory"}})
assert_type(sync_bus, SyncBus)


@sync_bus.subscribe(USER_REGISTERED, name="welcome-mail", where=lambda event: event.display_name != "")
def greet(event: UserRegistered) -> int:
    return len(event.display_name)


def sync_calls() -> None:
    with sync_bus as opened:
        assert_type(opened, SyncBus)
        assert_type(sync_bus.subscribe(USER_REGISTERED, send_welcome, ordered=True), SyncSubscription)
        sync_bus.subscribe("#", base_class)
        sync_bus.publish(USER_REGISTERED, registered)
        sync_bus.publish_many([(USER_REGISTERED, registered), (DEAL_WON, won)])
        with sync_bus.after_commit():
            sync_bus.publish(DEAL_WON, won)
        assert_type(sync_bus.health(), HealthReport)
        assert_type(sync_bus.dead_letters.list(), DeadLetterPage)
        assert_type(sync_bus.dead_letters.count(), int)
        for each in sync_bus.dead_letters.iterate():
            assert_type(each, DeadLetter)
        assert_type(greet(registered), int)
        assert_type(sync_bus.close(), DrainReport)


# --- ids of other types, and values that are frozen -------------------------------------------------------

OrderNumber = NewType("OrderNumber", int)
Address = Annotated[IPv4Address, JsonForm(str, write=str, read=IPv4Address)]


@event
class OrderPlaced(Event[int]):
    """Its ids are ints."""

    lines: Sequence[str] = ()
    prices: Mapping[str, int] = FrozenMapping()
    origin: Address | None = None


@event
class OrderShipped(Event[OrderNumber]):
    """Its ids are ints of a type of their own."""


@event
class CodeScanned(Event[str]):
    """Its ids are texts."""


ORDER_PLACED = Topic("shop.order.placed", OrderPlaced)
placed = OrderPlaced(aggregate_id=7, lines=["a"], prices={"a": 5}, origin=IPv4Address("127.0.0.1"))
assert_type(placed.aggregate_id, int)
assert_type(placed.lines, Sequence[str])
assert_type(OrderShipped(aggregate_id=OrderNumber(7)).aggregate_id, OrderNumber)
assert_type(CodeScanned(aggregate_id="a").aggregate_id, str)
assert_type(UserRegistered(aggregate_id=uuid4(), email="a@b.c").aggregate_id, UUID)
assert_type(BaseEvent("order.placed", "order-7").aggregate_id, UUID | str)


async def ids(bus: Bus) -> None:
    """The bus and its subscribers know which ids they get."""

    @bus.subscribe(ORDER_PLACED, name="ledger")
    async def note(event: OrderPlaced) -> None:
        assert_type(event.aggregate_id, int)

    @bus.subscribe("shop.*.placed", name="audit")
    async def audit(event: Event[Any]) -> None:
        print(event.aggregate_id)

    bus.subscribe(ORDER_PLACED, any_ids, name="any")
    bus.subscribe("shop.#", uuids_only, name="uuids")
    await bus.publish(ORDER_PLACED, placed)
    await bus.publish("shop.order.placed", placed)
    await bus.publish_many([(ORDER_PLACED, placed), (USER_REGISTERED, registered)])


async def any_ids(event: Event[Any]) -> None: ...
async def uuids_only(event: Event) -> None: ...
