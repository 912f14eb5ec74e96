"""The observer: a span for each publish and each attempt, and the consequence of a failure."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import version
from time import monotonic
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode, TraceFlags

from bus_core import AttemptFailure, Envelope, Handler, Middleware, Observer, SubscriptionSpec
from bus_core.events import is_pattern
from promenade_bus_opentelemetry.config import OpenTelemetryOptions
from promenade_bus_opentelemetry.figures import Attributes, Figures, shared_figures
from promenade_bus_opentelemetry.names import (
    DESTINATION,
    ERROR,
    GROUP,
    MESSAGE_ID,
    OPERATION,
    OPERATION_TYPE,
    PATTERN,
    SUBSCRIPTION,
    SYSTEM,
    SYSTEM_NAME,
)
from promenade_bus_opentelemetry.propagation import TRACEPARENT, context_of, inject, read_context

__all__ = ["observer"]

_MOST_OPEN: Final = 1000
"""The most failed attempts whose spans stay open until the bus has decided the consequence."""

_NO_PARENT: Final = Context()


def observer(options: OpenTelemetryOptions, service: str) -> Observer:
    """The observer of one bus."""
    own_version = version("promenade-bus-opentelemetry")
    figures = shared_figures(own_version) if options.metrics else None
    tracing = _Tracing(options, service, trace.get_tracer("promenade_bus", own_version), figures)
    return Observer(
        publish=tracing.publish,
        consume=tracing.consume,
        failed=tracing.failed if options.spans else None,
        close=tracing.close,
    )


class _Tracing:
    def __init__(
        self, options: OpenTelemetryOptions, service: str, tracer: trace.Tracer, figures: Figures | None
    ) -> None:
        self._tracer = tracer if options.spans else trace.NoOpTracer()
        self._traces = options.spans
        self._as_child = options.process == "parent"
        self._service = service
        self._figures = figures
        self._open: OrderedDict[tuple[str, str, int], tuple[Span, int]] = OrderedDict()

    # --- publishing ---------------------------------------------------------------------------------------

    def publish(self, topic: str) -> Middleware:
        """A span ``send {topic}``, whose context travels with the event."""
        name = f"send {topic}"
        attributes: Attributes = {
            SYSTEM: SYSTEM_NAME,
            OPERATION: "send",
            OPERATION_TYPE: "send",
            DESTINATION: topic,
        }
        told = self._told_of_sending(topic, attributes)
        if not self._traces:
            return self._only_told(told)

        def middleware(handler: Handler) -> Handler:
            async def send(envelope: Envelope) -> None:
                began = monotonic()
                span = self._sending(name, attributes, envelope)
                try:
                    await handler(envelope)
                except BaseException as error:
                    kind = type(error).__qualname__
                    _mark_failed(span, kind)
                    span.end()
                    told(monotonic() - began, kind)
                    raise
                span.end()
                told(monotonic() - began, "")

            return send

        return middleware

    def _sending(self, name: str, attributes: Attributes, envelope: Envelope) -> Span:
        headers = envelope.headers
        given = read_context(headers) if TRACEPARENT in headers else None
        if given is not None:  # the publisher passes on an event that another span has created
            span = self._tracer.start_span(
                name, kind=SpanKind.CLIENT, attributes=attributes, links=[Link(given)]
            )
        else:
            span = self._tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=attributes)
            context = span.get_span_context()
            if context.is_valid:
                inject(context, headers)
        if span.is_recording():
            span.set_attribute(MESSAGE_ID, str(envelope.event.event_id))
        return span

    def _told_of_sending(self, topic: str, attributes: Attributes) -> Callable[[float, str], None]:
        if self._figures is None:
            return _told_nothing
        counts, record = self._figures.sent(topic, attributes).by_error, self._figures.operation.record

        def told(seconds: float, error: str) -> None:
            counts[error] += 1
            record(seconds, {**attributes, ERROR: error} if error else attributes)

        return told

    # --- handling -----------------------------------------------------------------------------------------

    def consume(self, spec: SubscriptionSpec) -> Middleware:
        """A span ``process {topic}`` around each attempt, with a link to the span that created the event."""
        attributes = self._attributes_of(spec)
        told = self._told_of_processing(spec, attributes)
        if not self._traces:
            return self._only_told(told)
        topic = None if is_pattern(spec.topic) else spec.topic

        def middleware(handler: Handler) -> Handler:
            async def process(envelope: Envelope) -> None:
                began = monotonic()
                span = self._processing(topic, attributes, envelope)
                token = contexts.attach(trace.set_span_in_context(span, _NO_PARENT))
                try:
                    await handler(envelope)
                except BaseException as error:
                    kind = type(error).__qualname__
                    if span.is_recording():
                        _mark_failed(span, kind)
                        self._keep_open(spec, envelope, span)
                    told(monotonic() - began, kind)
                    raise
                finally:
                    contexts.detach(token)
                span.end()
                told(monotonic() - began, "")

            return process

        return middleware

    def _only_told(self, told: Callable[[float, str], None]) -> Middleware:
        def middleware(handler: Handler) -> Handler:
            async def process(envelope: Envelope) -> None:
                began = monotonic()
                try:
                    await handler(envelope)
                except BaseException as error:
                    told(monotonic() - began, type(error).__qualname__)
                    raise
                told(monotonic() - began, "")

            return process

        return middleware

    def _attributes_of(self, spec: SubscriptionSpec) -> Attributes:
        attributes = {
            SYSTEM: SYSTEM_NAME,
            OPERATION: "process",
            OPERATION_TYPE: "process",
            GROUP: spec.group,
            SUBSCRIPTION: spec.name,
        }
        return {**attributes, (PATTERN if is_pattern(spec.topic) else DESTINATION): spec.topic}

    def _processing(self, topic: str | None, attributes: Attributes, envelope: Envelope) -> Span:
        creating = context_of(envelope)
        if creating is not None and not creating.trace_flags & TraceFlags.SAMPLED:
            return NonRecordingSpan(creating)  # as it is for children: all is sampled, or nothing
        topic = topic or envelope.topic
        parent, links = _NO_PARENT, None
        if creating is not None:
            if self._as_child:
                parent = trace.set_span_in_context(NonRecordingSpan(creating), _NO_PARENT)
            else:
                links = [Link(creating)]
        span = self._tracer.start_span(f"process {topic}", parent, SpanKind.CONSUMER, attributes, links)
        if span.is_recording() and (delivery := envelope.delivery) is not None:
            span.set_attributes(
                {
                    DESTINATION: topic,
                    MESSAGE_ID: delivery.message_id,
                    "messaging.promenade_bus.attempt": delivery.attempt,
                }
            )
        return span

    def _told_of_processing(
        self, spec: SubscriptionSpec, attributes: Attributes
    ) -> Callable[[float, str], None]:
        if self._figures is None:
            return _told_nothing
        counts = self._figures.consumed(f"{spec.group} {spec.topic}", attributes).by_error
        record = self._figures.process.record

        def told(seconds: float, error: str) -> None:
            counts[error] += 1
            record(seconds, {**attributes, ERROR: error} if error else attributes)

        return told

    # --- what follows a failure -----------------------------------------------------------------------------

    def _keep_open(self, spec: SubscriptionSpec, envelope: Envelope, span: Span) -> None:
        """Keeps the span open: the bus reports the consequence in a moment, as an event of the span."""
        delivery = envelope.delivery
        assert delivery is not None, "a consume middleware gets deliveries"
        self._open[spec.name, delivery.message_id, delivery.attempt] = span, time.time_ns()
        while len(self._open) > _MOST_OPEN:
            _, (oldest, ended_at) = self._open.popitem(last=False)
            oldest.end(ended_at)

    def failed(self, failure: AttemptFailure) -> None:
        """Adds the consequence to the span of the attempt, and a separate span that settles."""
        kept = self._open.pop((failure.subscription, failure.event_id, failure.attempt), None)
        attributes: dict[str, str | int | float] = {"messaging.promenade_bus.attempt": failure.attempt}
        if failure.action != "dead_letter":
            attributes["messaging.promenade_bus.delay"] = failure.delay
        parent = _NO_PARENT
        if kept is not None:
            span, ended_at = kept
            span.add_event(failure.action, attributes, ended_at)
            span.end(ended_at)
            parent = trace.set_span_in_context(span, _NO_PARENT)
        settling = self._tracer.start_span(
            f"{failure.action} {failure.topic}",
            parent,
            SpanKind.CLIENT,
            attributes={
                SYSTEM: SYSTEM_NAME,
                OPERATION: failure.action,
                OPERATION_TYPE: "settle",
                DESTINATION: failure.topic,
                SUBSCRIPTION: failure.subscription,
                MESSAGE_ID: failure.event_id,
                ERROR: type(failure.error).__qualname__,
                **attributes,
            },
        )
        settling.end()

    async def close(self) -> None:
        """Ends the spans of attempts without a consequence: the shutdown cancelled them."""
        for span, ended_at in self._open.values():
            span.end(ended_at)
        self._open.clear()


def _mark_failed(span: Span, kind: str) -> None:
    """Records the class of the error. Its text may have personal data."""
    span.set_status(Status(StatusCode.ERROR, kind))
    span.set_attribute(ERROR, kind)


def _told_nothing(_seconds: float, _error: str) -> None:
    pass
