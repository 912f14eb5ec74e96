from __future__ import annotations

import pytest

import promenade_bus_redis
from bus_core import UnsupportedFeature, open_bus


def test_a_mode_that_is_not_there() -> None:
    """A mode that the adapter does not have is refused rather than replaced by another one."""
    config = {"bus": {"adapter": "redis", "redis": {"mode": "pubsub"}}}
    with pytest.raises(UnsupportedFeature, match="mode: pubsub is not there yet; use mode: streams"):
        open_bus(config, plugins=[promenade_bus_redis], installed=False)
