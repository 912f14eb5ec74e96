"""Logs one record for each published event, and one for each attempt to handle an event.

Records contain ids, names and outcomes. They contain no field of an event and no text of an exception,
because both may contain personal data. Their values are escaped, so that they cannot forge another log line.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Mapping
from typing import Final

from bus_core import Clock, Envelope, Handler, Middleware, Postpone, RetryLater
from bus_core.runtime import printable
from promenade_bus_middleware.config import LoggingOptions

__all__ = ["logging_middleware"]

_LONGEST: Final = 200
_LEVELS: Final[Mapping[str, int]] = logging.getLevelNamesMapping()


def logging_middleware(options: LoggingOptions, clock: Clock) -> Middleware:
    """Returns a middleware that logs the outcome of each event."""
    log = _EventLog(options)
    monotonic, is_on, level = clock.monotonic, log.is_enabled_for, log.level

    def middleware(handler: Handler) -> Handler:
        async def logged(envelope: Envelope) -> None:
            began = monotonic()
            try:
                await handler(envelope)
            except BaseException as error:
                log.failed(envelope, monotonic() - began, error)
                raise
            if is_on(level):
                log.succeeded(envelope, monotonic() - began)

        return logged

    return middleware


class _EventLog:
    """Writes the log records."""

    def __init__(self, options: LoggingOptions) -> None:
        self._logger = logging.getLogger(options.logger)
        self.level = _LEVELS[options.level.upper()]
        self._failure_level = _LEVELS[options.failure_level.upper()]
        self.is_enabled_for = self._logger.isEnabledFor
        self._headers = options.headers

    def succeeded(self, envelope: Envelope, seconds: float) -> None:
        outcome = "published" if envelope.delivery is None else "handled"
        self._write(self.level, envelope, seconds, outcome, None)

    def failed(self, envelope: Envelope, seconds: float, error: BaseException) -> None:
        match error:
            case Postpone():
                self._write(self.level, envelope, seconds, "postponed", None)
            case RetryLater():
                self._write(self._failure_level, envelope, seconds, "retry later", None)
            case asyncio.CancelledError():
                self._write(self._failure_level, envelope, seconds, "cancelled", None)
            case _:
                self._write(self._failure_level, envelope, seconds, "failed", type(error).__name__)

    def _write(self, level: int, envelope: Envelope, seconds: float, outcome: str, error: str | None) -> None:
        if not self._logger.isEnabledFor(level):
            return
        fields: dict[str, object] = {
            "direction": envelope.direction,
            "outcome": outcome,
            "topic": _plain(envelope.topic),
            "event_id": str(envelope.event.event_id),
            "duration_ms": round(seconds * 1000, 3),
        }
        text = "%(outcome)s %(topic)s event_id=%(event_id)s"
        if envelope.delivery is not None:
            fields["subscription"] = _plain(envelope.delivery.subscription)
            fields["attempt"] = envelope.delivery.attempt
            text += " subscription=%(subscription)s attempt=%(attempt)d"
        text += " duration_ms=%(duration_ms)s"
        if error is not None:
            fields["error"] = _plain(error)
            text += " error=%(error)s"
        given = envelope.headers
        headers = {name: _plain(given[name]) for name in self._headers if name in given}
        if headers:
            fields["headers"] = headers
            text += " headers=%(headers)s"
        try:
            self._logger.log(level, text, fields, extra=fields)
        except Exception:
            # A failing log must not turn a handled event into a failed one. Show its
            # error like logging shows the errors of its own handlers.
            if logging.raiseExceptions:
                traceback.print_exc()


def _plain(text: str) -> str:
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...", None)
