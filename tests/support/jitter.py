"""Delays threads and rounds of event loops at random: a test that needs their order fails sooner.

A plugin of pytest, which ``make flake`` loads. Each delay could happen on a busy machine, so that a test that
fails here is wrong, or has found a fault. The seed of pytest-randomly is the seed of the delays.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from asyncio.base_events import BaseEventLoop
from concurrent.futures import thread as executor
from typing import Any

import pytest

from bus_core.runtime.threads import ThreadCall

__all__ = ["pytest_configure"]

ROUNDS, STALLS = 0.004, 0.00002
"""The shares of rounds of a loop that begin up to 20 ms late, and 200 ms late."""

THREADS, CALLS = 0.5, 0.3
"""The shares of threads, and of calls in pools of threads, that begin up to 10 ms late."""

SWITCH_INTERVAL = 1e-5
"""Seconds until another thread gets its turn; 5 ms by default."""


@pytest.hookimpl(trylast=True)  # after pytest-randomly has its seed
def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("randomly_seed", "default")
    chance = random.Random(f"{seed} {getattr(config, 'workerinput', {}).get('workerid')}")
    sleep = time.sleep  # some tests replace it
    sys.setswitchinterval(SWITCH_INTERVAL)

    def delay(owner: type, method: str, share: float, *, stalls: float = 0.0) -> None:
        original = getattr(owner, method)

        def delayed(*args: Any, **kwargs: Any) -> Any:
            drawn = chance.random()
            if drawn < stalls:
                sleep(0.2)
            elif drawn < share:
                sleep(chance.random() * (0.02 if stalls else 0.01))
            return original(*args, **kwargs)

        setattr(owner, method, delayed)

    delay(BaseEventLoop, "_run_once", ROUNDS, stalls=STALLS)
    delay(threading.Thread, "run", THREADS)
    delay(executor._WorkItem, "run", CALLS)
    delay(ThreadCall, "run", CALLS)
