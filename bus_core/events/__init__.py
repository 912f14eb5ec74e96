"""Events, topics and messages: the values that users and adapters exchange.

May import: ``errors``. Owns: ``Event`` and the checks of its fields, topics and topic patterns, and the
values of a delivery (``Message``, ``Delivery``, ``Outcome``, ``DeadLetter``).
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.events.base import event_type_of, event_version_of, hints_of
    from bus_core.events.field_checks import is_personal
    from bus_core.events.messages import NO_HEADERS
    from bus_core.events.topics import is_pattern, nearest_names, patterns_overlap
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "base": "event_type_of event_version_of hints_of",
            "field_checks": "is_personal",
            "messages": "NO_HEADERS",
            "topics": "is_pattern nearest_names patterns_overlap",
        },
    )

__all__ = [
    "NO_HEADERS",
    "event_type_of",
    "event_version_of",
    "hints_of",
    "is_pattern",
    "is_personal",
    "nearest_names",
    "patterns_overlap",
]
