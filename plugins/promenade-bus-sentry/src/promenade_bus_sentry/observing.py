"""Builds the observer: reports through the client of ``sentry_sdk`` that the application has made."""

from __future__ import annotations

import asyncio
from typing import Any

import sentry_sdk
from sentry_sdk.client import BaseClient

from bus_core import AttemptFailure, EventLoss, ObservedBus, Observer
from bus_core.runtime import plain_logger
from promenade_bus_sentry.config import SentryOptions
from promenade_bus_sentry.reports import report_of_failure, report_of_loss

__all__ = ["observer"]

logger = plain_logger("promenade.bus.sentry")


def observer(options: SentryOptions, service: str) -> Observer:
    """The observer of one bus."""
    reporter = _Reporter(options, service)
    return Observer(failed=reporter.failed, lost=reporter.lost, start=reporter.start, close=reporter.close)


class _Reporter:
    """Sends a report for each failure. It uses no scope, because that may have personal data."""

    def __init__(self, options: SentryOptions, service: str) -> None:
        self._options = options
        self._service = service

    def failed(self, failure: AttemptFailure) -> None:
        """Reports a failed attempt. A postponement is no failure."""
        if failure.action == "postpone":
            return
        if failure.action == "retry" and self._options.failures == "dead-letters":
            return
        self._send(report_of_failure(self._service, failure, error_text=self._options.error_text))

    def lost(self, loss: EventLoss) -> None:
        """Reports a lost event."""
        self._send(report_of_loss(self._service, loss))

    @staticmethod
    def _send(report: Any) -> None:
        client = _client()
        if client is not None:
            client.capture_event(report)

    async def start(self, _bus: ObservedBus) -> None:
        """Says so when nothing would be reported."""
        if _client() is None:
            logger.warning(
                "failures are not reported to Sentry: call sentry_sdk.init(dsn=...) before the bus starts"
            )

    async def close(self) -> None:
        """Waits until the reports are sent, in a thread, because the client blocks."""
        client = _client()
        if self._options.flush and client is not None:
            await asyncio.to_thread(client.flush, timeout=self._options.flush)


def _client() -> BaseClient | None:
    """The client of the application; None if there is none, or it sends nothing for lack of a DSN."""
    client = sentry_sdk.get_client()
    return client if client.is_active() and client.transport is not None else None
