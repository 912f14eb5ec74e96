"""The protocols that plugins implement: adapters, serializers, retry policies, middleware, probes, observers.

A hook of ``bus_core.plugins.hookspecs`` hands over a ``Factory`` once, at start; the object that it builds
does the work. The bus never calls a hook per event.

May import: ``errors``, ``events``, ``runtime``. Owns: the contracts between the core and its plugins.
"""

from bus_core.abc.adapters import (
    Adapter,
    AdapterBase,
    AnyAdapter,
    Consumer,
    CountingAdapter,
    DeadLetterStore,
    Features,
    Inlet,
    InProcessAdapter,
    LeasingConsumer,
    SubscriptionSpec,
    YieldingConsumer,
    is_in_process,
)
from bus_core.abc.administration import (
    AdministeredAdapter,
    Administration,
    GroupFigures,
    Replayed,
    ReplayFilter,
)
from bus_core.abc.factories import (
    BuildContext,
    ChainRule,
    Command,
    Endpoint,
    Factory,
    WorkerEndpoint,
)
from bus_core.abc.health import (
    CheckResult,
    EngineState,
    HealthProbe,
    HealthStatus,
    MiddlewareCount,
    SubscriptionState,
)
from bus_core.abc.middleware import (
    BoundedStore,
    Handler,
    Middleware,
    Store,
    WatchedMiddleware,
    WatchedStore,
)
from bus_core.abc.observers import (
    AttemptFailure,
    EventLoss,
    ObservedBus,
    Observer,
    SubscriptionBacklog,
)
from bus_core.abc.policies import (
    RetryPolicy,
    Seconds,
    Serializer,
)

__all__ = [
    "Adapter",
    "AdapterBase",
    "AdministeredAdapter",
    "Administration",
    "AnyAdapter",
    "AttemptFailure",
    "BoundedStore",
    "BuildContext",
    "ChainRule",
    "CheckResult",
    "Command",
    "Consumer",
    "CountingAdapter",
    "DeadLetterStore",
    "Endpoint",
    "EngineState",
    "EventLoss",
    "Factory",
    "Features",
    "GroupFigures",
    "Handler",
    "HealthProbe",
    "HealthStatus",
    "InProcessAdapter",
    "Inlet",
    "LeasingConsumer",
    "Middleware",
    "MiddlewareCount",
    "ObservedBus",
    "Observer",
    "ReplayFilter",
    "Replayed",
    "RetryPolicy",
    "Seconds",
    "Serializer",
    "Store",
    "SubscriptionBacklog",
    "SubscriptionSpec",
    "SubscriptionState",
    "WatchedMiddleware",
    "WatchedStore",
    "WorkerEndpoint",
    "YieldingConsumer",
    "is_in_process",
]
