"""Fixtures for the tests of every distribution."""

from __future__ import annotations

import pytest

from support.virtual_clock import VirtualClock


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock that stands still until the test moves it."""
    return VirtualClock()
