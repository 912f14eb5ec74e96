"""The outbox and inbox of Promenade Bus: an event exists when its transaction was committed."""

import typing
from collections.abc import Mapping

from bus_core import Command, Factory, HealthProbe, hookimpl

if typing.TYPE_CHECKING:
    from promenade_bus_outbox.connection import OutboxConnection, OutboxDatabase
    from promenade_bus_outbox.drivers import DriverDatabase
    from promenade_bus_outbox.errors import MissingTables, OutboxError, WrongSession
    from promenade_bus_outbox.inbox import Inbox
    from promenade_bus_outbox.outbox import Outbox
    from promenade_bus_outbox.outbox_relay import OutboxRelay
    from promenade_bus_outbox.status import OutboxStatus
    from promenade_bus_outbox.tables import OutboxTables, outbox_tables
else:
    from promenade_bus_outbox import exports

    __getattr__ = exports.find

__all__ = ["DriverDatabase", "Inbox", "MissingTables", "Outbox", "OutboxConnection", "OutboxDatabase"]
__all__ += ["OutboxError", "OutboxRelay", "OutboxStatus", "OutboxTables", "WrongSession", "outbox_tables"]


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
