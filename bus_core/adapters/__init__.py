"""Bases for authors of adapters.

May import: ``errors``, ``events``, ``runtime``, ``abc``. Owns: the work that adapters share.
``StorageAdapter`` is for storages that must be polled, such as a database. ``LocalDeadLetters`` is for
adapters that keep their dead letters in the process. Adapters of databases share ``Heartbeats`` for leases,
``StoredDeadLetters``, reports of groups, and texts for attempts, headers and letters.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.adapters.batches import together_or_apart
    from bus_core.adapters.dead_letters import KeptLetter, LocalDeadLetters, first_letters
    from bus_core.adapters.group_rows import GroupRow, row_for, unserved_rows
    from bus_core.adapters.groups import (
        GroupInUse,
        GroupReport,
        groups_to_forget,
        left_text,
        orphans_text,
        unknown_group,
    )
    from bus_core.adapters.leases import NO_SESSION, Heartbeats, name_owner
    from bus_core.adapters.records import (
        DEAD,
        NOBODY,
        Claim,
        Pending,
        Record,
        attempts_of,
        headers_of,
        letter_of,
        matches,
        replayed_at,
        text_fault_of,
        text_of_attempts,
        text_of_headers,
        text_of_letter,
        with_death,
    )
    from bus_core.adapters.storage import StorageAdapter
    from bus_core.adapters.stored_letters import StoredDeadLetters
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "batches": "together_or_apart",
            "dead_letters": "KeptLetter LocalDeadLetters first_letters",
            "group_rows": "GroupRow row_for unserved_rows",
            "groups": "GroupInUse GroupReport groups_to_forget left_text orphans_text unknown_group",
            "leases": "Heartbeats NO_SESSION name_owner",
            "records": """
                Claim DEAD NOBODY Pending Record attempts_of headers_of letter_of matches replayed_at
                text_fault_of text_of_attempts text_of_headers text_of_letter with_death
            """,
            "storage": "StorageAdapter",
            "stored_letters": "StoredDeadLetters",
        },
    )

__all__ = [
    "DEAD",
    "NOBODY",
    "NO_SESSION",
    "Claim",
    "GroupInUse",
    "GroupReport",
    "GroupRow",
    "Heartbeats",
    "KeptLetter",
    "LocalDeadLetters",
    "Pending",
    "Record",
    "StorageAdapter",
    "StoredDeadLetters",
    "attempts_of",
    "first_letters",
    "groups_to_forget",
    "headers_of",
    "left_text",
    "letter_of",
    "matches",
    "name_owner",
    "orphans_text",
    "replayed_at",
    "row_for",
    "text_fault_of",
    "text_of_attempts",
    "text_of_headers",
    "text_of_letter",
    "together_or_apart",
    "unknown_group",
    "unserved_rows",
    "with_death",
]
