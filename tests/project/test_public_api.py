from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any
from uuid import uuid4

import importlib_metadata
import pytest

import bus_core
import bus_core.abc
import promenade_bus_memory
from bus_core import Event, HealthStatus, TopicConflict

ROOT = Path(__file__).resolve().parents[2]

# Users and documents rely on these names. Adding one is a feature, removing one breaks somebody.
PUBLIC = [
    "DURATION",
    "SECRET",
    "Abandoned",
    "Adapter",
    "AdapterBase",
    "AdapterError",
    "AnyAdapter",
    "Attempt",
    "AttemptFailure",
    "BaseEvent",
    "BufferFull",
    "BuildContext",
    "Bus",
    "BusClosed",
    "BusConfig",
    "BusError",
    "BusForked",
    "BusNotStarted",
    "BusStateError",
    "CalledFromHandler",
    "ChainRule",
    "CheckResult",
    "Clock",
    "Command",
    "ConfigError",
    "Constraint",
    "Consumer",
    "ConsumerDied",
    "CountingAdapter",
    "DeadLetter",
    "DeadLetterFilter",
    "DeadLetterNotFound",
    "DeadLetterPage",
    "DeadLetterStore",
    "DeadLetterTally",
    "DeadLetters",
    "Delivery",
    "Deprecated",
    "DeserializationError",
    "DrainReport",
    "DuplicateSubscription",
    "Endpoint",
    "EngineState",
    "Envelope",
    "Event",
    "EventError",
    "EventLoss",
    "EventTypeMismatch",
    "ExponentialRetry",
    "Factory",
    "Features",
    "FixedRetry",
    "FrozenMapping",
    "Handler",
    "HandlerTimeout",
    "HealthProbe",
    "HealthReport",
    "HealthStatus",
    "InProcessAdapter",
    "Inlet",
    "InvalidEvent",
    "InvalidHandler",
    "InvalidPlugin",
    "InvalidTopic",
    "JsonForm",
    "LeaseLost",
    "LeasingConsumer",
    "Message",
    "Middleware",
    "MiddlewareCount",
    "NoRetry",
    "ObservedBus",
    "Observer",
    "Outcome",
    "PermanentError",
    "Personal",
    "PluginConflict",
    "PluginError",
    "Postpone",
    "PublishError",
    "PublishFailed",
    "PublishManyError",
    "PublishUncertain",
    "Received",
    "RetryLater",
    "RetryPolicy",
    "SerializationError",
    "Serializer",
    "Store",
    "Subscription",
    "SubscriptionBacklog",
    "SubscriptionError",
    "SubscriptionSpec",
    "SubscriptionState",
    "SyncBus",
    "SyncDeadLetters",
    "SyncSubscription",
    "SystemClock",
    "Topic",
    "TopicCatalogue",
    "TopicConflict",
    "TopicError",
    "TopicPattern",
    "UnhealthyError",
    "UnknownPlugin",
    "UnknownSubscription",
    "UnknownTopic",
    "UnsupportedFeature",
    "WatchedMiddleware",
    "WrongEventLoop",
    "YieldingConsumer",
    "check_config",
    "event",
    "hookimpl",
    "load_config",
    "open_bus",
    "open_sync_bus",
    "upcaster",
    "uuid7",
]

# The example of the design, word for word.
EXAMPLE = '''\
from uuid import UUID
import bus_core
import bus_core.abc
from bus_core import BaseEvent, Event, Topic, TopicCatalogue, event, open_bus

@event                                     # immutable, hashable, keyword-only; type checkers see the fields
class UserRegistered(Event):
    """A person created an account."""
    email: str
    display_name: str = ""

USER_REGISTERED = Topic("identity.user.registered", UserRegistered)

bus = open_bus("config/app.sqlite-dev.yaml")     # path, mapping or BusConfig; plugins=[...]
async with bus:                                  # or await bus.start() ... await bus.close()
    @bus.subscribe(USER_REGISTERED, name="welcome-mail")        # also a plain call
    async def send_welcome(event: UserRegistered) -> None: ...

    subscription = bus.subscribe("identity.*.created", audit, name="audit")    # AMQP topic patterns
    await subscription.ready()               # only where one must know that it is open on the adapter
    await bus.publish(USER_REGISTERED, UserRegistered(aggregate_id=user_id, email="a@b.c"))
    await bus.publish_many([(USER_REGISTERED, e1), (USER_REGISTERED, e2)])
    await bus.drain()                        # tests love it
    report = await bus.health()              # HealthReport: .status, .checks, .raise_if_unhealthy()
    await subscription.unsubscribe()         # or bus.unsubscribe(topic, handler): removes that handler only
# leaving the block = bus.close(timeout=config.shutdown_timeout)
'''


def test_exported_names() -> None:
    """The public names are exactly these, and all of them exist."""
    assert bus_core.__all__ == PUBLIC
    assert [name for name in PUBLIC if not hasattr(bus_core, name)] == []


def test_nothing_else_is_exported() -> None:
    """Beside its public names the package offers only modules."""
    others = {name for name in vars(bus_core) if not name.startswith("_")} - set(PUBLIC)
    assert [name for name in others if not inspect.ismodule(getattr(bus_core, name))] == []


def test_the_memory_adapter_exports() -> None:
    """The package of the memory adapter has its own short list."""
    assert promenade_bus_memory.__all__ == ["MemoryHub", "MemoryOptions", "promenade_bus_adapters"]


def public_members(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(cls).items():
        if not name.startswith("_") and isinstance(member, FunctionType | property | classmethod):
            yield name, member


def test_every_public_name_is_documented() -> None:
    """Every public class and function says what it is, and so do the methods of those that users call."""
    missing = [
        name
        for name in PUBLIC
        if inspect.isclass(thing := getattr(bus_core, name)) or inspect.isfunction(thing)
        if not (thing.__doc__ or "").strip()
    ]
    called = [
        bus_core.Bus,
        bus_core.SyncBus,
        bus_core.Subscription,
        bus_core.SyncSubscription,
        bus_core.DeadLetters,
        bus_core.SyncDeadLetters,
        bus_core.HealthReport,
    ]
    missing += [
        f"{cls.__name__}.{name}"
        for cls in called
        for name, member in public_members(cls)
        if not (member.__doc__ or "").strip()
    ]
    assert missing == []


def test_the_sync_bus_has_what_the_bus_has() -> None:
    """A sync bus has each method of a bus as a plain call of the same name."""
    pinned = {
        "publish",
        "publish_many",
        "subscribe",
        "unsubscribe",
        "after_commit",
        "start",
        "drain",
        "health",
    }
    pinned |= {"close", "dead_letters", "state", "topics", "service", "config"}
    for name in pinned:
        assert hasattr(bus_core.Bus, name)
        assert hasattr(bus_core.SyncBus, name)
        assert not inspect.iscoroutinefunction(getattr(bus_core.SyncBus, name))
    for name, _ in public_members(bus_core.DeadLetters):
        assert not inspect.iscoroutinefunction(getattr(bus_core.SyncDeadLetters, name))


def test_errors_form_one_tree() -> None:
    """Everything that the bus raises on purpose is a BusError."""
    errors = [
        thing
        for name in PUBLIC
        if inspect.isclass(thing := getattr(bus_core, name)) and issubclass(thing, BaseException)
    ]
    assert len(errors) >= 35
    assert [error for error in errors if not issubclass(error, bus_core.BusError)] == []


# --- the example of the design ----------------------------------------------------------------------------


@pytest.fixture
def no_context_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for somebody who has the bus, and declares topics in code."""
    found = importlib_metadata.distributions

    def without_contexts(**options: Any) -> list[Any]:
        return [
            distribution
            for distribution in found(**options)
            if not (distribution.metadata["Name"] or "").startswith("promenade-context-")
        ]

    monkeypatch.setattr(importlib_metadata, "distributions", without_contexts)


def compiled(text: str) -> CodeType:
    """Code that may await at its top level, as in ``python -m asyncio``."""
    code = compile(text, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, CodeType)
    return code


async def run_example(monkeypatch: pytest.MonkeyPatch, directory: Path) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SQLITE_PATH", str(directory / "app.sqlite3"))
    audited: list[Event] = []

    async def audit(event: Event) -> None:
        audited.append(event)

    namespace: dict[str, Any] = {"audit": audit, "user_id": uuid4(), "audited": audited}
    head, _, rest = EXAMPLE.partition("bus = open_bus")
    exec(compiled(head), namespace)
    registered = namespace["UserRegistered"]
    namespace["e1"] = registered(aggregate_id=uuid4(), email="c@d.e")
    namespace["e2"] = registered(aggregate_id=uuid4(), email="f@g.h")
    await eval(compiled("bus = open_bus" + rest), namespace)
    return namespace


@pytest.mark.usefixtures("no_context_installed")
async def test_the_example_of_the_design(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The example of the design runs word for word, with the configuration that it names."""
    namespace = await run_example(monkeypatch, tmp_path)
    bus, report = namespace["bus"], namespace["report"]
    assert report.status is HealthStatus.HEALTHY
    assert [*report.checks] == ["bus", "event-loop", "engine"]
    report.raise_if_unhealthy()
    assert bus.published() == {"identity.user.registered": 3}
    (welcome,) = bus.subscriptions
    assert (welcome.name, welcome.state.handled) == ("welcome-mail", 3)
    assert inspect.iscoroutinefunction(namespace["send_welcome"])
    assert (await bus.health()).status is HealthStatus.UNHEALTHY
    event = namespace["e1"]
    assert hash(event) == hash(event)
    with pytest.raises(AttributeError):
        event.email = "changed"
    assert event.type == "user.registered"


async def test_the_example_where_the_context_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a context owns the topic of the example, the error names both classes and the owner."""
    with pytest.raises(TopicConflict) as caught:
        await run_example(monkeypatch, tmp_path)
    text = str(caught.value)
    assert "topic 'identity.user.registered' is declared with promenade_identity" in text
    assert "promenade-context-identity" in text


def test_everything_that_others_implement_is_listed() -> None:
    """Each public class of bus_core.abc is among the names that it offers."""
    defined = {
        name
        for name, found in vars(bus_core.abc).items()
        if isinstance(found, type)
        and found.__module__.startswith("bus_core.abc.")
        and not name.startswith("_")
    }
    assert defined - set(bus_core.abc.__all__) == set()
