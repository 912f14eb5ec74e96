"""Time, threads and background failures: tools that know nothing of events.

May import: ``errors``. Owns: the clock protocol and time limits on it, threads for synchronous handlers and
for the loop of a sync bus. Owns also background tasks, a sleep that others can end, ongoing failures, the
line that called the bus, and log lines that cannot be forged.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.runtime.background_task import BackgroundTask
    from bus_core.runtime.clock import TimerHandle, lease_clock
    from bus_core.runtime.error_text import place_of, printable
    from bus_core.runtime.failures import FIRST_PAUSE, Trouble, fault_of, next_pause
    from bus_core.runtime.logs import counted, plain_logger
    from bus_core.runtime.sleeper import Sleeper
    from bus_core.runtime.threads import ThreadPool, thread_ended
    from bus_core.runtime.timeouts import Deadlines, call_within, expiry
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "clock": "TimerHandle lease_clock",
            "error_text": "place_of printable",
            "failures": "FIRST_PAUSE Trouble fault_of next_pause",
            "background_task": "BackgroundTask",
            "logs": "counted plain_logger",
            "sleeper": "Sleeper",
            "threads": "ThreadPool thread_ended",
            "timeouts": "Deadlines call_within expiry",
        },
    )

__all__ = [
    "FIRST_PAUSE",
    "BackgroundTask",
    "Deadlines",
    "Sleeper",
    "ThreadPool",
    "TimerHandle",
    "Trouble",
    "call_within",
    "counted",
    "expiry",
    "fault_of",
    "lease_clock",
    "next_pause",
    "place_of",
    "plain_logger",
    "printable",
    "thread_ended",
]
