"""No change makes an event dearer unseen: the calls and blocks that it takes are counted, and not timed."""

from __future__ import annotations

import sys

import pytest

from support.cost_per_event import PATHS, VERSION, Cost, cost_of, stored_costs

SLACK = Cost(calls=0.3, blocks=0.2)
"""So much cheaper may an event become before the file has to say so."""

HOW = "if that is meant, count again with 'make cost' and commit tests/bus/cost_per_event.json"

pytestmark = [
    pytest.mark.skipif(sys.implementation.name != "cpython", reason="the counts are those of CPython"),
    pytest.mark.skipif(VERSION not in stored_costs(), reason=f"nothing is counted for Python {VERSION}"),
    pytest.mark.skipif(hasattr(sys, "gettotalrefcount"), reason="a debug build allocates more"),
]


@pytest.mark.parametrize("path", PATHS)
def test_an_event_costs_what_the_file_says(path: str) -> None:
    """An event takes no more calls and blocks than the file says, and not far fewer."""
    stored, found = stored_costs()[VERSION][path], cost_of(path)
    for name in ("calls", "blocks"):
        now, before = getattr(found, name), getattr(stored, name)
        if now is before is None:
            continue
        assert now <= before + 0.05, f"{path}: {before} -> {now} {name} for each event; {HOW}"
        assert now >= before - getattr(SLACK, name) - 0.05, (
            f"{path}: only {now} {name} for each event, and the file says {before}: 'make cost' rewrites it"
        )


def test_the_file_names_every_path_on_every_version() -> None:
    """The file has a count of each path, and of none that is gone, for each version that it knows."""
    for version, costs in stored_costs().items():
        assert set(costs) == set(PATHS), version


def test_one_call_more_is_counted() -> None:
    """A middleware that does nothing but hand on is one call more for each event."""
    one, two = cost_of("middleware_1"), cost_of("middleware_2")
    assert round(two.calls - one.calls, 1) == 1.0
