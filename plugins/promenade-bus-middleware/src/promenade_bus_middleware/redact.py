"""Masks values of events: fields, metadata and headers, by their names.

In the publish chain the event is masked before it is encoded, so that neither the adapter, nor a dead
letter, nor any consumer gets the values. In the consume chain only the handler, and middleware inside of this
one, get the masked event.

Guarantees. A value that a name selects does not leave the process by this publish. If a field cannot be
masked within its type, the event is refused rather than published. These values are not found: copies in
other fields, in the aggregate id, in the topic, and in logs of the application. The key function of a topic
gets the masked event. A dead letter of a consumer has the event as it was published, whatever the consume
chain masks. There is no state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import translate
from typing import Any, Final

import attrs

from bus_core import (
    BaseEvent,
    Envelope,
    Event,
    Handler,
    InvalidEvent,
    Middleware,
    PermanentError,
    PublishFailed,
    WatchedMiddleware,
)
from bus_core.events import has_personal_part, model_of
from promenade_bus_middleware.config import RedactOptions
from promenade_bus_middleware.topics import ChosenTopics

__all__ = ["Redact"]

_Selects = Callable[[str], object]


class Redact(WatchedMiddleware):
    """The middleware ``redact``."""

    def __init__(self, options: RedactOptions) -> None:
        self._mask = options.mask
        self._personal = options.personal
        self._topics = ChosenTopics(options.topics)
        self._field = _selector(options.fields)
        self._metadata = _selector(options.metadata)
        self._header = _selector(options.headers)
        self._fields_of: dict[type[Event[Any]], tuple[str, ...]] = {}
        self._replacement: dict[tuple[type[Event[Any]], str], Any] = {}

    def of_topic(self, topic: str) -> Middleware | None:
        """Leaves out topics that are not chosen."""
        return self if topic in self._topics else None

    def __call__(self, handler: Handler) -> Handler:
        async def redacted(envelope: Envelope) -> None:
            if envelope.topic in self._topics:
                self._redact(envelope)
            await handler(envelope)

        return redacted

    def _redact(self, envelope: Envelope) -> None:
        headers = envelope.headers
        for name in [name for name in headers if self._header(name)]:
            headers[name] = self._mask
        event = envelope.event
        metadata = {
            name: self._mask if self._metadata(name) else value for name, value in event.metadata.items()
        }
        changes: dict[str, Any] = {} if metadata == event.metadata else {"metadata": metadata}
        try:
            if isinstance(event, BaseEvent):
                data = dict(event.data)
                masked = {name: self._mask for name in data if self._personal or self._field(name)}
                changes |= {"data": {**data, **masked}} if masked else {}
            else:
                changes |= self._masked_fields(event)
        except InvalidEvent as error:
            raise self._refusal(envelope, error) from None
        if changes:
            envelope.event = _changed(event, **changes)

    def _masked_fields(self, event: Event[Any]) -> dict[str, Any]:
        """New values of the selected fields; raises ``InvalidEvent`` for one that takes none."""
        cls = type(event)
        names = self._fields_of.get(cls)
        if names is None:
            names = self._fields_of[cls] = tuple(self._selected_fields(cls))
        return {name: self._replacement_for(event, name) for name in names}

    def _selected_fields(self, cls: type[Event[Any]]) -> Iterator[str]:
        for field in model_of(cls).own.fields:
            if self._field(field.key) or (self._personal and has_personal_part(field.shape)):
                yield field.key

    def _replacement_for(self, event: Event[Any], name: str) -> Any:
        """The mask, or the first other value without content that the type of the field takes."""
        place = type(event), name
        if place not in self._replacement:
            refused: InvalidEvent | None = None
            candidates: tuple[Any, ...] = (self._mask, None, (), {})
            for candidate in candidates:
                try:
                    _changed(event, **{name: candidate})
                except InvalidEvent as error:
                    refused = refused or error
                else:
                    self._replacement[place] = candidate
                    break
            else:
                assert refused is not None, "there are candidates"
                raise refused
        return self._replacement[place]

    def _refusal(self, envelope: Envelope, error: InvalidEvent) -> Exception:
        faults = "; ".join(fault.partition(", got ")[0] for fault in error.faults)
        text = (
            f"a field of {type(envelope.event).__name__} cannot be masked ({faults}); allow None, or an "
            "empty value, in its type, or remove it from the options of 'redact'"
        )
        return PublishFailed(text) if envelope.delivery is None else PermanentError(text)


def _changed(event: Any, **changes: Any) -> Event[Any]:
    """A copy of an event with other values; raises ``InvalidEvent``."""
    changed: Event[Any] = attrs.evolve(event, **changes)
    return changed


def _selector(patterns: Iterable[str]) -> _Selects:
    """A function that selects names by patterns with ``*`` and ``?``; small and capital letters are equal."""
    texts = [translate(pattern) for pattern in patterns]
    return re.compile("|".join(texts), re.IGNORECASE).match if texts else _NOTHING


def _nothing(_name: str) -> object:
    return None


_NOTHING: Final[_Selects] = _nothing
