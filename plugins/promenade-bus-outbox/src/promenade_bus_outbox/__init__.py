"""The outbox and inbox of Promenade Bus on SQLAlchemy: an event exists when its transaction was committed."""

import typing
from collections.abc import Mapping

from bus_core import Command, Factory, HealthProbe, hookimpl, on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_outbox.errors import MissingTables, OutboxError, WrongSession
    from promenade_bus_outbox.inbox import Inbox
    from promenade_bus_outbox.outbox import Outbox
    from promenade_bus_outbox.status import OutboxStatus
    from promenade_bus_outbox.tables import OutboxTables, outbox_tables
else:  # without __dir__: the bus looks for hooks at every name that dir() lists
    __getattr__, _ = on_demand.names(
        __name__,
        {"errors": "MissingTables OutboxError WrongSession", "inbox": "Inbox", "outbox": "Outbox"}
        | {"status": "OutboxStatus", "tables": "OutboxTables outbox_tables"},
    )

__all__ = ["Inbox", "MissingTables", "Outbox", "OutboxError", "OutboxStatus", "OutboxTables", "WrongSession"]
__all__ += ["outbox_tables"]


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[typing.Any, HealthProbe]]:
    """Offers ``outbox``."""
    from promenade_bus_outbox.health import PROBE

    return {"outbox": PROBE}


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    """Offers ``promenade-bus outbox``."""
    from promenade_bus_outbox.command import OUTBOX

    return {"outbox": OUTBOX}
