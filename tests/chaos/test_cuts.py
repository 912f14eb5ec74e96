"""A kill between every pair of steps."""

from __future__ import annotations

import pytest

from chaos.cuts import SIDE_BY_SIDE, STEPS, run_cuts
from redis_support.fixtures import StartServer

pytestmark = [pytest.mark.long, pytest.mark.once]


def test_a_kill_between_every_pair_of_steps(start_server: StartServer) -> None:
    """Wherever a consumer is killed, each event is handled, or is one dead letter, and nothing is left."""
    tally = run_cuts(start_server(), 2 * SIDE_BY_SIDE)
    assert tally.counts["schedules"] >= 2 * SIDE_BY_SIDE
    assert tally.counts["lost"] == tally.counts["stuck"] == 0
    assert all(tally.cut_at[step] for step in STEPS)


def test_an_acknowledgement_that_comes_first_is_found(start_server: StartServer) -> None:
    """Consumers that acknowledge before the effect lose events when they are killed in between."""
    with pytest.raises(AssertionError, match="is lost"):
        run_cuts(start_server(), SIDE_BY_SIDE, hasty=True)
