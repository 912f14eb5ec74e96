"""JSON values as text inside of Avro, where a field may hold any of them."""

from __future__ import annotations

import json
from typing import Any

from bus_core.serialization import JsonOptions, JsonReader, JsonTextError
from promenade_bus_avro.options import AvroOptions

__all__ = ["JsonText"]


class JsonText:
    """Writes and reads the JSON text of one value, within the limits of the options. Threads may share it."""

    def __init__(self, options: AvroOptions) -> None:
        limits = JsonOptions(max_bytes=options.max_bytes, max_depth=options.max_depth)
        self._reader = JsonReader(limits)

    def write(self, value: Any) -> str:
        """Returns the text of a value; raises ``JsonTextError`` for one that ``read`` would refuse."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self.read(text)
        return text

    def read(self, text: str) -> Any:
        """Returns the value of a text; raises ``JsonTextError`` for any other text."""
        found = self._reader.read(b'{"value":%b}' % text.encode())
        if [*found] != ["value"]:
            raise JsonTextError("it has more than one value")
        return found["value"]
