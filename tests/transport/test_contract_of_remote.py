"""The engine keeps the contract of adapters with a server, too."""

from __future__ import annotations

import pytest

from support.contract_suites import OnRemote

pytestmark = pytest.mark.once


class TestRemote(OnRemote):
    """An adapter to a server, which keeps messages outside of the engine."""
