"""Another layout of the keys: what another version has written is not mixed with what this one writes."""

from __future__ import annotations

import pytest

from bus_core import AdapterError
from promenade_bus_redis.streams.epoch import LAYOUT
from redis_support.fixtures import SharedServer
from redis_support.streams import place_on, until


async def test_another_layout_is_refused(redis_server: SharedServer) -> None:
    """The error names the prefix, both layouts, and the two ways out."""
    async with place_on(redis_server) as place:
        place.ask("SET", place.keys.layout, "99")
        with pytest.raises(AdapterError, match=r"layout 99, but this version .* has the layout 1") as caught:
            await place.adapter()
        assert f"delete the keys that begin with '{place.keys.prefix}:'" in str(caught.value)
        assert "another bus.redis.prefix" in str(caught.value)
        assert place.ask("GET", place.keys.layout) == "99"


async def test_the_layout_is_written_down(redis_server: SharedServer) -> None:
    """The first instance notes it, also again when the server has lost all that it had."""
    async with place_on(redis_server) as place:
        await place.adapter(topic_refresh="50ms")
        assert place.ask("GET", place.keys.layout) == str(LAYOUT)
        place.ask("DEL", place.keys.layout, place.keys.epoch)
        await until(lambda: place.ask("GET", place.keys.layout) == str(LAYOUT), "it is there again")
