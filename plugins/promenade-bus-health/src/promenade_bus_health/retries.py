"""The health probe ``retries``: the age and the number of events that wait for a retry after a failure.

Postponed events, such as those of an open circuit or over a rate limit, are only a figure.
"""

from __future__ import annotations

from bus_core import CheckResult, EngineState, FrozenMapping, HealthProbe, HealthStatus
from bus_core.config import format_duration
from bus_core.runtime import counted
from promenade_bus_health.config import RetryOptions
from promenade_bus_health.judging import judged

__all__ = ["RetryProbe"]


class RetryProbe(HealthProbe):
    """Compares the retries of this process with the thresholds."""

    def __init__(self, options: RetryOptions) -> None:
        self._options = options

    async def check(self, state: EngineState) -> CheckResult:
        options, age, postponed = self._options, state.oldest_retry, state.waiting_postponed
        waiting = state.waiting_retries - postponed
        figures = FrozenMapping(
            {"waiting_retries": waiting, "postponed": postponed, "oldest_retry_s": round(age, 3)}
        )
        told: list[tuple[HealthStatus, str]] = []
        status, limit = judged(age, options.degraded, options.unhealthy)
        if limit is not None:
            told.append(
                (
                    status,
                    f"an event of {state.oldest_retry_subscription!r} has been failing for "
                    f"{format_duration(float(round(age)))} (the threshold is {format_duration(limit)})",
                )
            )
        status, most = judged(waiting, options.waiting, None)
        if most is not None:
            waits = counted(waiting, "event waits", "events wait")
            told.append((status, f"{waits} for a retry (the threshold is {most:,})"))
        if told:
            worst = max((status for status, _ in told), key=lambda status: status.severity)
            text = ". ".join(text for _, text in told)
            remedy = "see the errors in the log ('attempt N failed'), and what the handler depends on"
            return CheckResult(worst, f"{text}: {remedy}", figures)
        if not waiting:
            return CheckResult(HealthStatus.HEALTHY, "no event waits for a retry", figures)
        waits = counted(waiting, "event waits", "events wait")
        return CheckResult(HealthStatus.HEALTHY, f"{waits} for a retry, within the thresholds", figures)
