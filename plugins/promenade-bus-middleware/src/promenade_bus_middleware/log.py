"""Logs one record for each published event, and one for each attempt to handle an event.

Records contain ids, names and outcomes. They contain no field of an event and no text of an exception,
because both may contain personal data. Their values are escaped, so that they cannot forge another log line.

In a program that has configured no logging, the standard library drops records below ``warning``. There the
middleware writes its records to stderr, and says once that it does so, and why. It changes no logger: as soon
as the program configures logging, that alone decides.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from bus_core import Clock, Envelope, Handler, Middleware, Postpone, RetryLater
from bus_core.runtime import printable
from promenade_bus_middleware.config import LoggingOptions

__all__ = ["logging_middleware"]

_LONGEST: Final = 200

_NOT_CONFIGURED: Final = (
    "no logging is configured, so the middleware 'logging' writes to stderr; "
    "call logging.basicConfig(level=logging.INFO), or configure handlers, to choose the place and the format"
)
_LEVELS: Final[Mapping[str, int]] = logging.getLevelNamesMapping()


def logging_middleware(options: LoggingOptions, clock: Clock) -> Middleware:
    """Returns a middleware that logs the outcome of each event."""
    log = _EventLog(options)
    monotonic, level = clock.monotonic, log.level

    def middleware(handler: Handler) -> Handler:
        is_on = log.chooser()

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
        self._headers = options.headers
        self._is_configured = False
        self._has_told = False

    def chooser(self) -> Callable[[int], bool]:
        """A function that tells which levels are shown; the cheapest one that is right from now on."""
        self._is_configured = _is_configured(self._logger)
        return self._logger.isEnabledFor if self._is_configured else self.is_shown

    def is_shown(self, level: int) -> bool:
        """True for levels that are logged, and for all while the program has configured no logging."""
        if self._logger.isEnabledFor(level):
            return True
        if not self._is_configured:
            self._is_configured = _is_configured(self._logger)
        return not self._is_configured

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

    def _write_to_stderr(self, level: int, text: str, fields: dict[str, object]) -> None:
        """Writes where the standard library writes warnings of programs without configured logging."""
        last_resort = logging.lastResort
        if last_resort is None:
            return
        if not self._has_told:
            self._has_told = True
            self._handle(last_resort, logging.WARNING, _NOT_CONFIGURED, ())
        self._handle(last_resort, level, text, (fields,))

    def _handle(self, handler: logging.Handler, level: int, text: str, arguments: Any) -> None:
        name = self._logger.name
        handler.handle(self._logger.makeRecord(name, level, __file__, 0, text, arguments, None))

    def _write(self, level: int, envelope: Envelope, seconds: float, outcome: str, error: str | None) -> None:
        if not self.is_shown(level):
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
            if self._logger.isEnabledFor(level):
                self._logger.log(level, text, fields, extra=fields)
            else:
                self._write_to_stderr(level, text, fields)
        except Exception:
            # A failing log must not turn a handled event into a failed one. Show its
            # error like logging shows the errors of its own handlers.
            if logging.raiseExceptions:
                traceback.print_exc()


def _is_configured(logger: logging.Logger) -> bool:
    """True when the program has given the logger, or one above it, a handler or a level."""
    if logging.root.level != logging.WARNING or logger.manager.disable:
        return True
    current: logging.Logger | None = logger
    while current is not None:
        if current.handlers or not current.propagate or current.disabled:
            return True
        if current is not logging.root and current.level:
            return True
        current = current.parent
    return False


def _plain(text: str) -> str:
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...", None)
