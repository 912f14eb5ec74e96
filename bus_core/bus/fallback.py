"""``fallback: memory``: replaces an adapter that does not start, and degrades health."""

from __future__ import annotations

from bus_core.abc import AnyAdapter
from bus_core.runtime.logs import plain_logger

__all__ = ["start_one_of"]

logger = plain_logger("promenade.bus")


async def start_one_of(first: AnyAdapter, second: AnyAdapter | None) -> tuple[AnyAdapter, str | None]:
    """Starts the first adapter or, if that fails, the second. Raises the error of the last one.

    Returns the started adapter and its note for health. It never switches later, because the events of one
    bus would then be in two places.
    """
    try:
        await first.start()
    except Exception as error:
        if second is None:
            raise
        degraded = (
            f"the adapter {first.name!r} did not start ({type(error).__name__}), and {second.name!r} took "
            "its place, as 'bus.fallback' asks: mend it and start the process again"
        )
        logger.error("%s", degraded)
        await second.start()
        return second, degraded
    return first, None
