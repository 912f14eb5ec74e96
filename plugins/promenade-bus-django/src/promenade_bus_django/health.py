"""The health probe ``django``: events whose transaction was committed, and that could not be published."""

from __future__ import annotations

import threading
from typing import Any, Final

import attrs

from bus_core import BuildContext, CheckResult, EngineState, Event, Factory, HealthProbe, HealthStatus, Topic
from bus_core.runtime import counted, plain_logger

__all__ = ["PROBE", "DjangoProbe", "Losses"]

logger = plain_logger("promenade.django")


class Losses:
    """Counts events that were to be published after a commit, and were not. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0
        self.latest = ""

    def add(self, topic: Topic[Any] | str, event: Event[Any], error: Exception) -> None:
        """Logs an event that was not published, and counts it."""
        name = topic if isinstance(topic, str) else topic.name
        cause = f"{type(error).__name__}: {error}"
        with self._lock:
            self.count += 1
            self.latest = f"{event.event_id} of {name!r}: {cause}"
        logger.error(
            "the transaction was committed, and its event %s of %s was not published: %s",
            str(event.event_id),
            name,
            cause,
        )


class DjangoProbe(HealthProbe):
    """Degraded when an event was lost between a commit and its publish."""

    def __init__(self) -> None:
        self._losses: Losses | None = None

    def watch(self, losses: Losses) -> None:
        """From now on it looks at this counter."""
        self._losses = losses

    async def check(self, state: EngineState) -> CheckResult:
        losses = self._losses
        if losses is None:
            return CheckResult(
                HealthStatus.DEGRADED,
                "the bus was not opened by promenade_bus_django: remove 'django' from 'bus.health.probes'",
            )
        figures = {"lost_after_commit": losses.count}
        if not losses.count:
            return CheckResult(HealthStatus.HEALTHY, "every event was published after its commit", figures)
        return CheckResult(
            HealthStatus.DEGRADED,
            f"{counted(losses.count, 'event')} of committed transactions could not be published, the latest "
            f"{losses.latest}; the log names all of them; an outbox would have kept them",
            figures,
        )


@attrs.frozen(kw_only=True)
class ProbeOptions:
    """The probe has no options."""


def _build(_options: ProbeOptions, _context: BuildContext) -> HealthProbe:
    return DjangoProbe()


PROBE: Final = Factory(options=ProbeOptions, build=_build)
"""The probe ``django``."""
