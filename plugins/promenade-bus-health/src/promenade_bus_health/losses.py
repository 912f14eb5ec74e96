"""The health probe ``losses``: events and dead letters that were lost lately."""

from __future__ import annotations

from bus_core import CheckResult, Clock, EngineState, FrozenMapping, HealthProbe, HealthStatus
from bus_core.config import format_duration
from bus_core.runtime import counted
from promenade_bus_health.config import LossOptions
from promenade_bus_health.judging import Recent, judged

__all__ = ["LossProbe"]


class LossProbe(HealthProbe):
    """Counts losses within a window, so that it is healthy again some time after the last one."""

    def __init__(self, options: LossOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._recent = Recent(options.window)

    async def check(self, state: EngineState) -> CheckResult:
        lost = self._recent.growth(self._clock.monotonic(), state.lost)
        status, limit = judged(lost, self._options.degraded, self._options.unhealthy)
        figures = FrozenMapping(
            {"lost": state.lost, "lost_in_window": lost, "window_s": self._options.window}
        )
        if status is HealthStatus.HEALTHY:
            return CheckResult(status, _well(state.lost), figures)
        window = format_duration(self._options.window)
        return CheckResult(
            status,
            f"lost {counted(lost, 'event or dead letter', 'events or dead letters')} within {window} "
            f"(the threshold is {limit:,}): the log names them (search for 'lost')",
            figures,
        )


def _well(total: int) -> str:
    return "nothing is lost" if not total else f"no recent losses; {total:,} since the start"
