"""Bases for authors of adapters.

May import: ``errors``, ``events``, ``runtime``, ``abc``. Owns: the work that adapters share, so that no
author writes it again: ``StorageAdapter`` for storages that must be polled, such as a database, and
``LocalDeadLetters`` for adapters that keep their dead letters in the process.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.adapters.dead_letters import KeptLetter, LocalDeadLetters
    from bus_core.adapters.records import DEAD, NOBODY, Claim, Pending, Record, matches
    from bus_core.adapters.storage import StorageAdapter
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "dead_letters": "KeptLetter LocalDeadLetters",
            "records": "Claim DEAD NOBODY Pending Record matches",
            "storage": "StorageAdapter",
        },
    )

__all__ = [
    "DEAD",
    "NOBODY",
    "Claim",
    "KeptLetter",
    "LocalDeadLetters",
    "Pending",
    "Record",
    "StorageAdapter",
    "matches",
]
