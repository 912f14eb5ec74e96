"""The built-in serializer: CloudEvents 1.0 in JSON.

May import: ``errors``, ``events``, ``config`` (options), ``abc``. Owns: bounded JSON reading, conversion of
field values, the envelope, and events as plain data. Serializers that are plugins build on it through
``bus_core.serialization``.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.serialization.cloudevents import JsonSerializer
    from bus_core.serialization.json_schema import schema_of
    from bus_core.serialization.json_text import JsonReader, JsonTextError
    from bus_core.serialization.options import JsonOptions
    from bus_core.serialization.plain import from_data, to_data
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "cloudevents": "JsonSerializer",
            "json_schema": "schema_of",
            "json_text": "JsonReader JsonTextError",
            "options": "JsonOptions",
            "plain": "from_data to_data",
        },
    )

__all__ = [
    "JsonOptions",
    "JsonReader",
    "JsonSerializer",
    "JsonTextError",
    "from_data",
    "schema_of",
    "to_data",
]
