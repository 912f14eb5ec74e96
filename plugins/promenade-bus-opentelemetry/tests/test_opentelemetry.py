from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from bus_core import (
    BaseEvent,
    Bus,
    ConfigError,
    Event,
    FixedRetry,
    Postpone,
    PublishError,
    Topic,
    event,
    open_bus,
)
from bus_core.plugins import discover
from promenade_bus_opentelemetry.figures import Figures
from redis_support.fixtures import StartServer, start_server

__all__ = ["start_server"]

PLACED = Topic("sales.order.placed", BaseEvent)
EXPORTER = InMemorySpanExporter()
READER = InMemoryMetricReader()
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@event
class Shipped(Event):
    """An order was shipped."""

    to: str = ""


SHIPPED = Topic("sales.order.shipped", Shipped)


@pytest.fixture(scope="module", autouse=True)
def sdk() -> Iterator[None]:
    """The SDK of the process, which can be set once."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider(metric_readers=[READER]))
    yield
    provider.shutdown()


@pytest.fixture(autouse=True)
def cleared(sdk: None) -> None:
    EXPORTER.clear()


def an_event() -> BaseEvent:
    return BaseEvent("order.placed", uuid4())


def make_bus(service: str = "shop", options: dict[str, Any] | None = None, **bus: Any) -> Bus:
    chosen: Any = {"opentelemetry": options} if options else "opentelemetry"
    settings = {"adapter": "memory", "service": service, "strict_topics": False, "observers": [chosen], **bus}
    return open_bus({"bus": settings})


def spans(name: str | None = None) -> list[ReadableSpan]:
    return [span for span in EXPORTER.get_finished_spans() if name in (None, span.name)]


def span(name: str) -> ReadableSpan:
    (found,) = spans(name)
    return found


def place(of: ReadableSpan) -> SpanContext:
    """The trace and the id of a span."""
    context: SpanContext | None = of.context
    assert context is not None
    return context


def attributes(of: ReadableSpan) -> dict[str, Any]:
    return dict(of.attributes or {})


def points(
    name: str, service: str, reader: InMemoryMetricReader = READER
) -> dict[frozenset[tuple[str, Any]], Any]:
    """The data points of a metric that were recorded for the topics and subscriptions of a service."""
    data = reader.get_metrics_data()
    if data is None:  # nothing was recorded yet in this process
        return {}
    return {
        frozenset((point.attributes or {}).items()): point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
        if any(service in str(value) for value in (point.attributes or {}).values())
    }


# --- spans ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serialize", [False, True], ids=["objects", "serialized"])
async def test_an_event_has_a_span_where_it_is_sent_and_one_where_it_is_processed(serialize: bool) -> None:
    """Names, kinds and attributes are those of the conventions, and the processing links to the sending."""
    async with make_bus(memory={"serialize": serialize}) as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None:
            trace.get_tracer("test").start_span("inside").end()

        placed = an_event()
        with trace.get_tracer("test").start_as_current_span("request") as request:
            await bus.publish(PLACED, placed)
        await bus.drain()
    sent, processed, inside = (
        span("send sales.order.placed"),
        span("process sales.order.placed"),
        span("inside"),
    )
    assert (sent.kind, processed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert sent.parent is not None
    assert sent.parent.span_id == request.get_span_context().span_id
    assert attributes(sent) == {
        "messaging.system": "promenade_bus",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "sales.order.placed",
        "messaging.message.id": str(placed.event_id),
    }
    assert attributes(processed) == {
        "messaging.system": "promenade_bus",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "sales.order.placed",
        "messaging.destination.subscription.name": "stock",
        "messaging.consumer.group.name": "shop.stock",
        "messaging.message.id": str(placed.event_id),
        "messaging.promenade_bus.attempt": 1,
    }
    (link,) = processed.links
    assert link.context.span_id == place(sent).span_id
    assert link.context.trace_id == place(sent).trace_id
    assert processed.parent is None
    assert place(processed).trace_id != place(sent).trace_id
    assert inside.parent is not None
    assert inside.parent.span_id == place(processed).span_id
    assert processed.status.status_code is StatusCode.UNSET


async def test_the_processing_may_be_a_child_of_the_sending() -> None:
    """With ``process: parent`` both are in one trace."""
    async with make_bus(options={"process": "parent"}) as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        await bus.publish(PLACED, an_event())
        await bus.drain()
    sent, processed = span("send sales.order.placed"), span("process sales.order.placed")
    assert processed.parent is not None
    assert processed.parent.span_id == place(sent).span_id
    assert place(processed).trace_id == place(sent).trace_id
    assert not processed.links


async def test_what_a_handler_publishes_belongs_to_its_span() -> None:
    """An event that is published by a handler is sent inside of the span of its attempt."""
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None:
            await bus.publish(SHIPPED, Shipped(aggregate_id=uuid4()))

        @bus.subscribe("sales.#", name="audit", where=lambda event: isinstance(event, Shipped))
        async def audit(event: Event) -> None: ...

        await bus.publish(PLACED, an_event())
        await bus.drain()
    sent, processed = span("send sales.order.shipped"), span("process sales.order.placed")
    assert sent.parent is not None
    assert sent.parent.span_id == place(processed).span_id
    audited = attributes(span("process sales.order.shipped"))
    assert audited["messaging.destination.name"] == "sales.order.shipped"
    assert audited["messaging.destination.template"] == "sales.#"


async def test_each_of_many_events_has_a_span_of_its_own() -> None:
    """Events of one publish_many are sent one by one, below the caller's span, and linked one by one."""
    tracer = trace.get_tracer("tests")
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        with tracer.start_as_current_span("import") as caller:
            await bus.publish_many([(PLACED, an_event()) for _ in range(3)])
        await bus.drain()
    sent = {attributes(each)["messaging.message.id"]: each for each in spans("send sales.order.placed")}
    processed = spans("process sales.order.placed")
    assert len(sent) == len(processed) == 3
    for each in processed:
        (link,) = each.links
        sending = sent[attributes(each)["messaging.message.id"]]
        assert link.context.span_id == place(sending).span_id
        assert sending.parent is not None
        assert sending.parent.span_id == caller.get_span_context().span_id


async def test_what_follows_a_failure_is_told() -> None:
    """A failed attempt has the class of its error, and an event and a settling span say what follows."""
    async with make_bus() as bus:
        errors = iter([ValueError("4711-secret"), Postpone(after=0.001), LookupError("4711-secret")])

        @bus.subscribe(PLACED, name="stock", retry=FixedRetry(attempts=2, delay=0.001))
        async def stock(event: BaseEvent) -> None:
            raise next(errors)

        await bus.publish(PLACED, an_event())
        await bus.drain()
    attempts = spans("process sales.order.placed")
    assert [attributes(each)["error.type"] for each in attempts] == ["ValueError", "Postpone", "LookupError"]
    assert [each.status.status_code for each in attempts] == [StatusCode.ERROR] * 3
    assert [[each.name for each in attempt.events] for attempt in attempts] == [
        ["retry"],
        ["postpone"],
        ["dead_letter"],
    ]
    assert dict(attempts[0].events[0].attributes or {}) == {
        "messaging.promenade_bus.attempt": 1,
        "messaging.promenade_bus.delay": 0.001,
    }
    settled = [span(f"{action} sales.order.placed") for action in ("retry", "postpone", "dead_letter")]
    assert [each.kind for each in settled] == [SpanKind.CLIENT] * 3
    assert [attributes(each)["messaging.operation.type"] for each in settled] == ["settle"] * 3
    parents = [each.parent.span_id for each in settled if each.parent is not None]
    assert parents == [place(attempt).span_id for attempt in attempts]
    assert len(attempts[2].links) == 1
    assert "4711" not in "".join(each.to_json() for each in spans())


async def test_a_publish_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The span of a publish that is refused has the class of the error, and the caller gets it."""
    async with make_bus("refusing", buffer_size=1, overflow_size=0) as bus:
        gate = asyncio.Event()

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None:
            await gate.wait()

        await bus.publish(PLACED, an_event())
        with pytest.raises(PublishError):
            bus.publish_nowait(PLACED, an_event())
        gate.set()
    refused = spans("send sales.order.placed")[-1]
    assert refused.status.status_code is StatusCode.ERROR
    assert attributes(refused)["error.type"] == "BufferFull"


async def test_an_attempt_that_the_shutdown_cancels_has_ended() -> None:
    """No span is left open when the bus is closed while a handler runs."""
    began = asyncio.Event()
    bus = make_bus()

    @bus.subscribe(PLACED, name="stock")
    async def stock(event: BaseEvent) -> None:
        began.set()
        await asyncio.Event().wait()

    await bus.start()
    await bus.publish(PLACED, an_event())
    await began.wait()
    await bus.close(0)
    assert attributes(span("process sales.order.placed"))["error.type"] == "CancelledError"


# --- the context that travels -----------------------------------------------------------------------------


async def test_the_context_travels_in_headers() -> None:
    """The headers hold the context of the sending span, with its state, as W3C writes it."""
    seen: list[Any] = []
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent, delivery: Any) -> None:
            seen.append(dict(delivery.headers))

        await bus.publish(PLACED, an_event(), headers={"tenant": "acme"})
        await bus.drain()
    context = place(span("send sales.order.placed"))
    flags = int(context.trace_flags)
    assert flags & 1
    assert seen == [
        {"tenant": "acme", "traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}
    ]


async def test_the_state_of_a_trace_travels_too() -> None:
    """The state that vendors added to a trace is in the header ``tracestate`` and in the link."""
    seen: list[Any] = []
    state = TraceState([("vendor", "1"), ("other", "2")])
    caller = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=state)
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent, delivery: Any) -> None:
            seen.append(delivery.headers["tracestate"])

        with trace.use_span(NonRecordingSpan(caller)):
            await bus.publish(PLACED, an_event())
        await bus.drain()
    assert seen == ["vendor=1,other=2"]
    (link,) = span("process sales.order.placed").links
    assert link.context.trace_state.get("other") == "2"


async def test_a_context_that_is_given_is_kept() -> None:
    """Passing on an event that others created gives its context: it travels, and both spans link to it."""
    seen: list[Any] = []
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent, delivery: Any) -> None:
            seen.append(delivery.headers)

        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
        await bus.publish(PLACED, an_event(), headers=headers)
        await bus.drain()
    assert [dict(each) for each in seen] == [headers]
    sent, processed = span("send sales.order.placed"), span("process sales.order.placed")
    assert sent.kind is SpanKind.CLIENT
    for each in (sent, processed):
        (link,) = each.links
        assert f"{link.context.trace_id:032x}" == TRACEPARENT.split("-")[1]
        assert link.context.trace_state.get("vendor") == "1"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c8031-b7ad6b7169203331-01",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
async def test_a_context_that_cannot_be_read_does_no_harm(given: str) -> None:
    """A value that is no context by the standard is passed over; a context of the sending replaces it."""
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        await bus.publish(PLACED, an_event(), headers={"traceparent": given})
        await bus.drain()
    sent, processed = span("send sales.order.placed"), span("process sales.order.placed")
    assert sent.kind is SpanKind.PRODUCER
    assert [link.context.span_id for link in processed.links] == [place(sent).span_id]


PUBLISHER = """
import asyncio, json, sys
from uuid import uuid4
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from bus_core import BaseEvent, open_bus

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

async def main():
    config = {"bus": {"adapter": "redis", "redis": {"addr": sys.argv[1]}, "service": "shop",
                      "strict_topics": False, "observers": ["opentelemetry"]}}
    async with open_bus(config) as bus:
        await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))

asyncio.run(main())
(span,) = exporter.get_finished_spans()
print(json.dumps([span.name, f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"]))
"""


async def test_the_context_travels_between_processes_on_redis(start_server: StartServer) -> None:
    """A message that one process sends, another processes with a link to the very span."""
    server = start_server()
    async with make_bus(adapter="redis", redis={"addr": server.address}) as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        await bus.subscriptions[0].ready()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "error", "-c", PUBLISHER, server.address],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        await bus.drain()
    name, trace_id, span_id = json.loads(done.stdout)
    assert name == "send sales.order.placed"
    (link,) = span("process sales.order.placed").links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (trace_id, span_id)
    assert link.context.is_remote


async def test_the_context_of_a_cloudevent_that_others_wrote_is_read(start_server: StartServer) -> None:
    """A CloudEvent that was put into the stream by others has its context in its attributes."""
    server = start_server()
    document = {
        "specversion": "1.0",
        "type": "order.placed",
        "source": "elsewhere",
        "id": str(uuid4()),
        "subject": str(uuid4()),
        "time": "2026-01-01T00:00:00Z",
        "traceparent": TRACEPARENT,
        "tracestate": "vendor=1",
        "data": {},
    }
    async with make_bus(adapter="redis", redis={"addr": server.address}) as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None: ...

        await bus.subscriptions[0].ready()
        await bus.publish(PLACED, an_event())
        await bus.drain()
        EXPORTER.clear()
        with server.client() as client:
            (stream,) = client.scan_iter("*{sales.order.placed}", _type="stream")
            client.xadd(stream, {"body": json.dumps(document)})
        await bus.drain()
    (link,) = span("process sales.order.placed").links
    assert f"{link.context.span_id:016x}" == "b7ad6b7169203331"
    assert link.context.trace_state.get("vendor") == "1"


# --- metrics ----------------------------------------------------------------------------------------------


async def test_the_metrics_of_the_conventions() -> None:
    """Sent and consumed messages are counted with their errors, and durations are histograms."""
    topic = Topic("metered.order.placed", BaseEvent)
    async with make_bus("metered") as bus:

        @bus.subscribe(topic, name="metered-stock", retry=FixedRetry(attempts=2, delay=0.001))
        async def stock(event: BaseEvent) -> None:
            if event.data.get("fails"):
                raise ValueError

        await bus.publish(topic, BaseEvent("order.placed", uuid4()))
        await bus.publish(topic, BaseEvent("order.placed", uuid4(), data={"fails": True}))
        await bus.drain()
    sending = {
        ("messaging.system", "promenade_bus"),
        ("messaging.operation.name", "send"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "metered.order.placed"),
    }
    processing = {
        ("messaging.system", "promenade_bus"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "metered.order.placed"),
        ("messaging.destination.subscription.name", "metered-stock"),
        ("messaging.consumer.group.name", "metered.metered-stock"),
    }
    failing = processing | {("error.type", "ValueError")}
    sent = points("messaging.client.sent.messages", "metered")
    assert {key: point.value for key, point in sent.items()} == {frozenset(sending): 2}
    consumed = points("messaging.client.consumed.messages", "metered")
    assert {key: point.value for key, point in consumed.items()} == {
        frozenset(processing): 1,
        frozenset(failing): 2,
    }
    durations = points("messaging.client.operation.duration", "metered")
    assert {key: point.count for key, point in durations.items()} == {frozenset(sending): 2}
    processed = points("messaging.process.duration", "metered")
    assert {key: point.count for key, point in processed.items()} == {
        frozenset(processing): 1,
        frozenset(failing): 2,
    }
    assert processed[frozenset(processing)].explicit_bounds[:3] == (0.005, 0.01, 0.025)


async def test_either_may_be_left_out() -> None:
    """Without spans no context travels, and without metrics nothing is counted."""
    topic = Topic("quiet.order.placed", BaseEvent)
    headers: list[Any] = []
    async with make_bus("quiet", {"metrics": False}) as bus:
        bus.subscribe(topic, lambda event: None, name="quiet-stock")
        await bus.publish(topic, an_event())
        await bus.drain()
    assert len(spans()) == 2
    assert points("messaging.client.sent.messages", "quiet") == {}
    EXPORTER.clear()
    async with make_bus("quiet", {"spans": False}, retry_attempts=1) as bus:

        @bus.subscribe(topic, name="quiet-stock")
        async def stock(event: BaseEvent, delivery: Any) -> None:
            headers.append(dict(delivery.headers))
            raise ValueError

        await bus.publish(topic, an_event())
        await bus.drain()
    assert spans() == []
    assert headers == [{}]
    assert [point.value for point in points("messaging.client.consumed.messages", "quiet").values()] == [1]


def test_topics_without_number_are_counted_together() -> None:
    """However many topics there are, the number of series is bounded."""
    reader = InMemoryMetricReader()
    figures = Figures(MeterProvider(metric_readers=[reader]).get_meter("tests"))
    for number in range(1010):
        figures.sent(f"topic-{number}", {"messaging.destination.name": f"topic-{number}"}).by_error[""] += 1
    found = points("messaging.client.sent.messages", "", reader)
    other = frozenset({("messaging.destination.name", "_OTHER")})
    assert len(found) == 1001
    assert found[other].value == 10


async def test_an_event_whose_sending_is_not_sampled_is_not_sampled_either() -> None:
    """The flag of the context that travels holds for the processing, and for what happens in it."""
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="stock")
        async def stock(event: BaseEvent) -> None:
            trace.get_tracer("test").start_span("inside").end()
            assert trace.get_current_span().get_span_context().trace_id == int(TRACEPARENT.split("-")[1], 16)

        await bus.publish(PLACED, an_event(), headers={"traceparent": TRACEPARENT[:-2] + "00"})
        await bus.drain()
        assert bus.state().subscriptions[0].handled == 1
    assert [each.name for each in spans()] == ["send sales.order.placed"]


# --- how it is chosen -------------------------------------------------------------------------------------


def test_it_is_found() -> None:
    """The installed distribution offers one observer."""
    assert discover().observers.select("opentelemetry").origin.startswith("promenade-bus-opentelemetry ")


def test_faulty_options_are_told_with_their_path() -> None:
    """Options are read strictly."""
    with pytest.raises(ConfigError, match=r"\$\.bus\.observers\[0\]\.opentelemetry\.process"):
        make_bus(options={"process": "sibling"})


def test_without_the_sdk_nothing_is_recorded() -> None:
    """With the API alone a bus works as ever, and no header is added."""
    code = (
        "import asyncio\nfrom uuid import uuid4\nfrom bus_core import BaseEvent, open_bus\n"
        "async def main():\n"
        "    bus = {'adapter': 'memory', 'strict_topics': False, 'observers': ['opentelemetry']}\n"
        "    async with open_bus({'bus': bus}) as bus:\n"
        "        @bus.subscribe('a.b.c', name='x')\n"
        "        async def x(event, delivery):\n"
        "            print(dict(delivery.headers))\n"
        "        await bus.publish('a.b.c', BaseEvent('c', uuid4()))\n"
        "        await bus.drain()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "{}\n"
