"""Prepares events for a later publish, or for another process: encoded, and not given to an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

from bus_core.abc import Handler, Middleware
from bus_core.bus.arguments import checked_event, checked_headers
from bus_core.bus.deprecations import Deprecations
from bus_core.dispatch.codec import Codec
from bus_core.dispatch.middleware import compose
from bus_core.errors import PublishFailed
from bus_core.events.messages import Envelope, Message
from bus_core.events.topics import Topic

__all__ = ["Preparation"]

_made: ContextVar[list[Message]] = ContextVar("promenade_bus_made")
"""The message of the event that is being prepared, set by the end of the publish middleware."""


class Preparation:
    """Prepares events for a bus, in any thread, before or after its start.

    ``declared`` finds the topic, and ``middleware_of`` returns the publish middleware of a topic.
    ``deprecations`` warns.
    """

    def __init__(
        self,
        codec: Codec,
        declared: Callable[[object], Topic[Any]],
        middleware_of: Callable[[str], Sequence[Middleware]],
        deprecations: Deprecations,
    ) -> None:
        self._deprecations = deprecations
        self._codec = codec
        self._declared = declared
        self._middleware_of = middleware_of
        self._chains: dict[str, Handler | None] = {}

    def middleware_changed(self) -> None:
        """Notes a new observer: chains are composed again."""
        self._chains = {}

    def check(self, topic: object, event: object, headers: Mapping[str, str] | None) -> None:
        """See ``Bus.check_event``."""
        declared = self._declared(topic)
        self._codec.encode(declared, checked_event(declared, event), checked_headers(headers))

    async def prepare(
        self, topic: object, event: object, headers: Mapping[str, str] | None
    ) -> Message | None:
        """See ``Bus.prepare``."""
        declared = self._declared(topic)
        checked = checked_event(declared, event)
        if self._deprecations.fields.get(declared.name) != ():
            self._deprecations.look(declared, checked)
        sent = checked_headers(headers)
        chain = self._chain(declared)
        if chain is None:
            return self._codec.encode(declared, checked, sent)
        made: list[Message] = []
        token = _made.set(made)
        try:
            await chain(Envelope(declared.name, checked, dict(sent)))
        finally:
            _made.reset(token)
        return made[-1] if made else None

    def prepare_nowait(
        self, topic: object, event: object, headers: Mapping[str, str] | None
    ) -> Message | None:
        """See ``Bus.prepare_nowait``."""
        preparing = self.prepare(topic, event, headers)
        try:
            preparing.send(None)
        except StopIteration as done:
            message: Message | None = done.value
            return message
        finally:
            preparing.close()
        raise PublishFailed(
            f"prepare_nowait: a publish middleware waited on topic {self._declared(topic).name!r}; "
            "await prepare()"
        )

    def _chain(self, topic: Topic[Any]) -> Handler | None:
        """The composed middleware of the topic; None without any."""
        try:
            return self._chains[topic.name]
        except KeyError:
            middleware = self._middleware_of(topic.name)
            chain = compose(middleware, partial(self._encode, topic)) if middleware else None
            self._chains[topic.name] = chain
            return chain

    async def _encode(self, topic: Topic[Any], envelope: Envelope) -> None:
        """Ends the publish middleware, which may have changed anything."""
        event = checked_event(topic, envelope.event)
        _made.get().append(self._codec.encode(topic, event, checked_headers(envelope.headers)))
