"""Events, topics and messages: the values that users and adapters exchange.

May import: ``errors``. Owns: ``Event``, topics and topic patterns, and the values of a delivery
(``Message``, ``Delivery``, ``Outcome``, ``DeadLetter``). The types of fields are a tree of shapes, read from
annotations once per class; values are checked, frozen and hidden by their shapes.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.events.assembling import assembler_of
    from bus_core.events.base import event_type_of, event_version_of, model_of, shown_fields
    from bus_core.events.faults import Unfit
    from bus_core.events.messages import NO_HEADERS, merge_tallies, tally_of
    from bus_core.events.models import BASE_FIELDS, NO_METADATA
    from bus_core.events.records import takes_by_place
    from bus_core.events.shapes import (
        AnyJson,
        Collection,
        Constrained,
        EnumMember,
        FixedTuple,
        Hidden,
        LiteralValue,
        MappingOf,
        OneOf,
        RecordShape,
        Recursive,
        Scalar,
        Shape,
        WithJsonForm,
        has_personal_part,
        is_none,
        is_personal,
        json_kinds,
        plain,
    )
    from bus_core.events.topic_index import TopicIndex, TopicTree
    from bus_core.events.topics import is_pattern, nearest_names, patterns_overlap
    from bus_core.events.upcasting import Upcaster, missing_upcasters, upcast, upcasters_of
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "assembling": "assembler_of",
            "base": "event_type_of event_version_of model_of shown_fields",
            "faults": "Unfit",
            "messages": "NO_HEADERS merge_tallies tally_of",
            "models": "BASE_FIELDS NO_METADATA",
            "records": "takes_by_place",
            "shapes": """
                AnyJson Collection Constrained EnumMember FixedTuple Hidden LiteralValue MappingOf OneOf
                RecordShape Recursive Scalar Shape WithJsonForm has_personal_part is_none is_personal
                json_kinds plain
            """,
            "topic_index": "TopicIndex TopicTree",
            "topics": "is_pattern nearest_names patterns_overlap",
            "upcasting": "Upcaster missing_upcasters upcast upcasters_of",
        },
    )

__all__ = [
    "BASE_FIELDS",
    "NO_HEADERS",
    "NO_METADATA",
    "AnyJson",
    "Collection",
    "Constrained",
    "EnumMember",
    "FixedTuple",
    "Hidden",
    "LiteralValue",
    "MappingOf",
    "OneOf",
    "RecordShape",
    "Recursive",
    "Scalar",
    "Shape",
    "TopicIndex",
    "TopicTree",
    "Unfit",
    "Upcaster",
    "WithJsonForm",
    "assembler_of",
    "event_type_of",
    "event_version_of",
    "has_personal_part",
    "is_none",
    "is_pattern",
    "is_personal",
    "json_kinds",
    "merge_tallies",
    "missing_upcasters",
    "model_of",
    "nearest_names",
    "patterns_overlap",
    "plain",
    "shown_fields",
    "takes_by_place",
    "tally_of",
    "upcast",
    "upcasters_of",
]
