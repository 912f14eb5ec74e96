"""The health probe ``outbox``: checks that committed events leave, and names what holds them up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Protocol

import attrs

from bus_core import BuildContext, CheckResult, EngineState, Factory, HealthProbe, HealthStatus
from bus_core.config import DURATION

if TYPE_CHECKING:
    from promenade_bus_outbox.status import OutboxStatus

__all__ = ["PROBE", "OutboxProbe", "ProbeOptions"]


@attrs.frozen(kw_only=True)
class ProbeOptions:
    """The thresholds of ``degraded``: the age of the oldest event, and the number of waiting events."""

    oldest: Annotated[float, DURATION] = 60.0
    waiting: int = 10_000


class Watched(Protocol):
    """The outbox as the probe sees it."""

    @property
    def volatile_adapter(self) -> str | None:
        """The adapter of its bus, if its events end with the process."""
        ...

    @property
    def problem(self) -> str | None:
        """The current fault of its relay."""
        ...

    async def status(self) -> OutboxStatus:
        """A snapshot of the waiting events."""
        ...


class OutboxProbe(HealthProbe):
    """Checks the outbox of the bus."""

    def __init__(self, options: ProbeOptions) -> None:
        self._options = options
        self._outbox: Watched | None = None

    def watch(self, outbox: Watched) -> None:
        """Makes this the outbox to check."""
        self._outbox = outbox

    async def check(self, state: EngineState) -> CheckResult:
        outbox = self._outbox
        if outbox is None:
            return CheckResult(
                HealthStatus.DEGRADED,
                "no Outbox was made for this bus: make one, or take 'outbox' out of 'bus.health.probes'",
            )
        status = await outbox.status()
        problems = self._problems(outbox, status)
        return CheckResult(
            HealthStatus.DEGRADED if problems else HealthStatus.HEALTHY,
            ". ".join(problems)
            or f"{status.waiting:,} events wait for the relay, the oldest for {status.oldest:.1f} s",
            {
                "waiting": status.waiting,
                "oldest_s": round(status.oldest, 3),
                "held": status.held,
                "refused": status.refused,
                "kept": status.kept,
                "relays": status.relays,
            },
        )

    def _problems(self, outbox: Watched, status: OutboxStatus) -> list[str]:
        found: list[str] = []
        late = status.oldest >= self._options.oldest
        if outbox.problem is not None:
            found.append(outbox.problem)
        if late and status.blocked_by is not None:
            found.append(f"{status.held:,} events wait for {status.blocked_by}")
        if late:
            found.append(
                f"an event has waited for {status.oldest:.0f} s"
                + ("" if status.relays else ": no relay runs; start one with 'promenade-bus outbox relay'")
            )
        if status.waiting >= self._options.waiting:
            found.append(f"{status.waiting:,} events wait: the relay is slower than those who publish")
        if status.refused:
            first = status.refusals[0]
            found.append(
                f"the bus has refused {status.refused:,} events for good; the first is {first.event_id} of "
                f"{first.topic!r}: {first.cause}; see 'promenade-bus outbox status'"
            )
        if outbox.volatile_adapter is not None:
            found.append(
                f"the adapter {outbox.volatile_adapter!r} does not outlive this process: events that have "
                "left the outbox, and are not handled when it ends, are lost; choose a durable adapter"
            )
        return found


def _build(options: ProbeOptions, _context: BuildContext) -> HealthProbe:
    return OutboxProbe(options)


PROBE: Final = Factory(options=ProbeOptions, build=_build)
"""The probe ``outbox``."""
