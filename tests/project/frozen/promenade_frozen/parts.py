"""One part for each other hook. Each writes down in ``SEEN`` that it was used."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import attrs
import click

from bus_core import (
    DURATION,
    AttemptFailure,
    BuildContext,
    CheckResult,
    Command,
    Endpoint,
    EngineState,
    Envelope,
    Event,
    Factory,
    Handler,
    HealthProbe,
    HealthStatus,
    Observer,
)
from bus_core.abc import ObservedBus, WatchedMiddleware
from bus_core.config import Name
from bus_core.serialization import JsonOptions, JsonSerializer

SEEN: Counter[str] = Counter()


@attrs.frozen(kw_only=True)
class NoOptions:
    pass


# --- serializer and retry policy ---


class FrozenSerializer:
    """The built-in JSON, compressed."""

    content_type = "application/x-frozen"

    def __init__(self) -> None:
        self._json = JsonSerializer(JsonOptions())

    def encode(self, event: Event[Any], *, topic: str, source: str) -> bytes:
        SEEN["encode"] += 1
        return zlib.compress(self._json.encode(event, topic=topic, source=source))

    def decode(self, body: bytes, *, event_class: type[Event[Any]] | None) -> Event[Any]:
        SEEN["decode"] += 1
        return self._json.decode(zlib.decompress(body), event_class=event_class)


SERIALIZER = Factory(options=NoOptions, build=lambda options, context: FrozenSerializer())


@attrs.frozen(kw_only=True)
class FrozenRetryOptions:
    attempts: int = 2
    pause: Annotated[float, DURATION] = 0.001


@attrs.frozen
class FrozenRetry:
    options: FrozenRetryOptions

    def next_delay(self, attempt: int, error: BaseException) -> float | None:
        SEEN["next_delay"] += 1
        return self.options.pause if attempt < self.options.attempts else None


RETRY_POLICY = Factory(options=FrozenRetryOptions, build=lambda options, context: FrozenRetry(options))


# --- middleware and store ---


def _counting(options: NoOptions, context: BuildContext) -> Callable[[Handler], Handler]:
    def middleware(handler: Handler) -> Handler:
        async def call(envelope: Envelope) -> None:
            SEEN[f"{envelope.direction} {envelope.topic}"] += 1
            await handler(envelope)

        return call

    return middleware


COUNTING = Factory(options=NoOptions, build=_counting)


@attrs.frozen(kw_only=True)
class OnceOptions:
    store: Name


class Once(WatchedMiddleware):
    """Handles each event once: the store remembers it."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __call__(self, handler: Handler) -> Handler:
        async def call(envelope: Envelope) -> None:
            assert envelope.delivery is not None
            key = f"frozen-once {envelope.delivery.group} {envelope.event.event_id}"
            claim = await self._store.claim(key, "me", 60.0)
            if claim == "marked":
                return
            await handler(envelope)
            await self._store.mark(key, 60.0)

        return call

    def check(self) -> CheckResult:
        return CheckResult(HealthStatus.HEALTHY, "remembers")


ONCE = Factory(
    options=OnceOptions,
    build=lambda options, context: Once(context.stores["store"]),
    chains=("consume",),
    stores=("store",),
    does=("drops",),
)


class FrozenStore:
    forgotten = 0

    def __init__(self) -> None:
        self._marks: set[str] = set()

    async def start(self) -> None:
        SEEN["store started"] += 1

    async def close(self) -> None:
        SEEN["store closed"] += 1

    async def claim(self, key: str, owner: str, seconds: float) -> Literal["mine", "taken", "marked"]:
        return "marked" if key in self._marks else "mine"

    async def mark(self, key: str, seconds: float) -> None:
        self._marks.add(key)

    async def release(self, key: str, owner: str) -> None:
        pass

    async def take(self, key: str, rate: float, burst: int) -> float:
        return 0.0


STORE = Factory(options=NoOptions, build=lambda options, context: FrozenStore())


# --- health probe and observer ---


@attrs.frozen(kw_only=True)
class ProbeOptions:
    most_queued: int = 100


class FrozenProbe(HealthProbe):
    def __init__(self, options: ProbeOptions) -> None:
        self._options = options

    async def check(self, state: EngineState) -> CheckResult:
        queued = sum(subscription.queued for subscription in state.subscriptions)
        status = HealthStatus.HEALTHY if queued <= self._options.most_queued else HealthStatus.DEGRADED
        return CheckResult(status, f"{queued} queued", {"queued": queued})


PROBE = Factory(options=ProbeOptions, build=lambda options, context: FrozenProbe(options))


def _observer(options: NoOptions, context: BuildContext) -> Observer:
    async def start(bus: ObservedBus) -> None:
        SEEN[f"observes {bus.service} on {bus.adapter.name}"] += 1
        assert bus.state().subscriptions == ()

    def failed(failure: AttemptFailure) -> None:
        SEEN[f"failed: {failure.action}"] += 1

    def timing(spec: Any) -> Callable[[float, BaseException | None], None]:
        def tell(seconds: float, error: BaseException | None) -> None:
            SEEN[f"timed {spec.name}"] += 1

        return tell

    return Observer(start=start, failed=failed, timing=timing)


OBSERVER = Factory(options=NoOptions, build=_observer)


# --- endpoint and command ---


def _load() -> Callable[[Any, str], Any]:
    @contextmanager
    def serve(bus: Any, address: str) -> Iterator[str]:
        yield f"frozen://{address}/{bus.service}"

    return serve


ENDPOINT = Endpoint(help="Serve nothing.", load=_load)


def _command() -> click.Command:
    @click.command(help="Say something.")
    @click.option("--word", default="ice", help="The word to say.")
    def frozen(word: str) -> None:
        click.echo(f"frozen says {word}")

    return frozen


COMMAND = Command(help="Say something.", load=_command)
