"""Marks tests of the contract `long` that take seconds on an adapter outside the process.

``make test`` runs them on memory and leaves the others to ``make test-all``; see CONTRIBUTING.md.
"""

from __future__ import annotations

from typing import Final

import pytest

from promenade_bus_testing.contract import AdapterContract

__all__ = ["pytest_collection_modifyitems"]

_LENGTHY: Final = {
    "test_fast_handlers_leave_turns_to_others",
    "test_many_subscriptions",
    "test_many_topics",
    "test_volume",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        contract = getattr(item, "cls", None)
        if contract is None or not issubclass(contract, AdapterContract) or contract.features.in_process:
            continue
        if getattr(item, "originalname", "") in _LENGTHY:
            item.add_marker(pytest.mark.long)
