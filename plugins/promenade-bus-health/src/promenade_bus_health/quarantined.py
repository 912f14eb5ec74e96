"""The health probe ``quarantined-plugins``: installed plugins that cannot be loaded."""

from __future__ import annotations

from collections.abc import Mapping

from bus_core import CheckResult, EngineState, FrozenMapping, HealthProbe, HealthStatus
from bus_core.runtime import counted, printable
from promenade_bus_health.config import QuarantineOptions
from promenade_bus_health.judging import judged

__all__ = ["QuarantineProbe"]

_MOST_NAMED = 5
_LONGEST = 200


class QuarantineProbe(HealthProbe):
    """Reports the plugins that were left out when the bus was opened."""

    def __init__(self, options: QuarantineOptions, quarantined: Mapping[str, str]) -> None:
        self._options = options
        self._causes = {name: why for name, why in quarantined.items() if name not in options.ignore}

    async def check(self, state: EngineState) -> CheckResult:
        count = len(self._causes)
        figures = FrozenMapping({"quarantined": count})
        status, limit = judged(count, self._options.degraded, self._options.unhealthy)
        if limit is None:
            well = "every plugin is loaded" if not count else f"{counted(count, 'plugin')} cannot be loaded"
            return CheckResult(HealthStatus.HEALTHY, well, figures)
        named = [f"{name!r} ({printable(why, _LONGEST)})" for name, why in self._causes.items()]
        more = f" and {count - _MOST_NAMED} more" if count > _MOST_NAMED else ""
        return CheckResult(
            status,
            f"{counted(count, 'plugin')} cannot be loaded (the threshold is {limit:,}): "
            f"{', '.join(named[:_MOST_NAMED])}{more}; run 'promenade-bus plugins doctor'",
            figures,
        )
