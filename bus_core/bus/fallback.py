"""``fallback: memory``: another adapter takes the place of one that does not start, and health says so."""

from __future__ import annotations

from bus_core.abc import AnyAdapter
from bus_core.runtime.logs import plain_logger

__all__ = ["start_one_of"]

logger = plain_logger("promenade.bus")


async def start_one_of(first: AnyAdapter, second: AnyAdapter | None) -> tuple[AnyAdapter, str | None]:
    """Starts the first adapter or, when that fails, the second; raises the error of the last one.

    Returns the one that is used, and what health has to say of that. It never changes over later: events
    of one bus would then be in two places.
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
