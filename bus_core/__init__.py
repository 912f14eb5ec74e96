"""An event bus for Python applications built from bounded contexts. Everything but the engine is a plugin."""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.abc import (
        Adapter,
        AdapterBase,
        AnyAdapter,
        AttemptFailure,
        BuildContext,
        CheckResult,
        Command,
        Consumer,
        CountingAdapter,
        DeadLetterStore,
        Endpoint,
        EngineState,
        EventLoss,
        Factory,
        Features,
        Handler,
        HealthProbe,
        HealthStatus,
        Inlet,
        InProcessAdapter,
        LeasingConsumer,
        Middleware,
        MiddlewareCount,
        ObservedBus,
        Observer,
        RetryPolicy,
        Serializer,
        SubscriptionBacklog,
        SubscriptionSpec,
        SubscriptionState,
        WatchedMiddleware,
        YieldingConsumer,
    )
    from bus_core.bus.bootstrap import check_config, open_bus, open_sync_bus
    from bus_core.bus.bus import Bus
    from bus_core.bus.dead_letters import DeadLetters
    from bus_core.bus.health import HealthReport
    from bus_core.bus.subscriptions import Subscription
    from bus_core.bus.sync import SyncBus, SyncDeadLetters, SyncSubscription
    from bus_core.config.bus_config import BusConfig, load_config
    from bus_core.config.values import DURATION, SECRET
    from bus_core.dispatch.reports import Abandoned, DrainReport
    from bus_core.errors import (
        AdapterError,
        BufferFull,
        BusClosed,
        BusError,
        BusForked,
        BusNotStarted,
        BusStateError,
        CalledFromHandler,
        ConfigError,
        ConsumerDied,
        DeadLetterNotFound,
        DeserializationError,
        DuplicateSubscription,
        EventError,
        EventTypeMismatch,
        HandlerTimeout,
        InvalidEvent,
        InvalidHandler,
        InvalidPlugin,
        InvalidTopic,
        LeaseLost,
        PermanentError,
        PluginConflict,
        PluginError,
        Postpone,
        PublishError,
        PublishFailed,
        PublishManyError,
        PublishUncertain,
        RetryLater,
        SerializationError,
        SubscriptionError,
        TopicConflict,
        TopicError,
        UnhealthyError,
        UnknownPlugin,
        UnknownSubscription,
        UnknownTopic,
        UnsupportedFeature,
        WrongEventLoop,
    )
    from bus_core.events.base import BaseEvent, Event, event
    from bus_core.events.marks import Constraint, JsonForm, Personal
    from bus_core.events.messages import (
        Attempt,
        DeadLetter,
        DeadLetterFilter,
        DeadLetterPage,
        DeadLetterTally,
        Delivery,
        Envelope,
        Message,
        Outcome,
        Received,
    )
    from bus_core.events.primitives import FrozenMapping, uuid7
    from bus_core.events.topics import Topic, TopicCatalogue, TopicPattern
    from bus_core.plugins.hookspecs import hookimpl
    from bus_core.retry import ExponentialRetry, FixedRetry, NoRetry
    from bus_core.runtime.clock import Clock
    from bus_core.runtime.system_clock import SystemClock
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "abc": """
                Adapter AdapterBase AnyAdapter AttemptFailure BuildContext CheckResult Command Consumer
                CountingAdapter DeadLetterStore Endpoint EngineState EventLoss Factory Features Handler
                HealthProbe HealthStatus Inlet InProcessAdapter LeasingConsumer Middleware ObservedBus
                Observer RetryPolicy Serializer SubscriptionBacklog SubscriptionSpec SubscriptionState
                YieldingConsumer MiddlewareCount WatchedMiddleware
            """,
            "bus.bootstrap": "check_config open_bus open_sync_bus",
            "bus.bus": "Bus",
            "bus.dead_letters": "DeadLetters",
            "bus.health": "HealthReport",
            "bus.subscriptions": "Subscription",
            "bus.sync": "SyncBus SyncDeadLetters SyncSubscription",
            "config.bus_config": "BusConfig load_config",
            "config.values": "DURATION SECRET",
            "dispatch.reports": "Abandoned DrainReport",
            "errors": """
                AdapterError BufferFull BusClosed BusError BusForked BusNotStarted BusStateError
                CalledFromHandler ConfigError ConsumerDied DeadLetterNotFound DeserializationError
                DuplicateSubscription EventError EventTypeMismatch HandlerTimeout InvalidEvent
                InvalidHandler InvalidPlugin InvalidTopic LeaseLost PermanentError PluginConflict
                PluginError Postpone PublishError PublishFailed PublishManyError PublishUncertain
                RetryLater SerializationError SubscriptionError TopicConflict TopicError UnhealthyError
                UnknownPlugin UnknownSubscription UnknownTopic UnsupportedFeature WrongEventLoop
            """,
            "events.base": "BaseEvent Event event",
            "events.marks": "Constraint JsonForm Personal",
            "events.messages": """
                Attempt DeadLetter DeadLetterFilter DeadLetterPage DeadLetterTally Delivery Envelope Message
                Outcome Received
            """,
            "events.primitives": "FrozenMapping uuid7",
            "events.topics": "Topic TopicCatalogue TopicPattern",
            "plugins.hookspecs": "hookimpl",
            "retry": "ExponentialRetry FixedRetry NoRetry",
            "runtime.clock": "Clock",
            "runtime.system_clock": "SystemClock",
        },
    )

__all__ = [
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
    "uuid7",
]
