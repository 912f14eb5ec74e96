"""The pytest plugin: fixtures, and nothing that a run without them would notice.

It is loaded in every run of pytest where it is installed, so the bus is imported only when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from promenade_bus_testing.virtual_clock import VirtualClock

pytest_plugins = ("promenade_bus_testing.contract_plugin",)


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock that stands still until the test moves it."""
    from promenade_bus_testing.virtual_clock import VirtualClock

    return VirtualClock()
