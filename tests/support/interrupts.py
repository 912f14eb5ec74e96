"""Ctrl-C at the worst moment: while the main thread waits in its event loop, and in another thread."""

from __future__ import annotations

import sys

__all__ = ["interrupted_when_idle"]

# The kernel may give a signal for the process to any thread. One that arrives right before the main thread
# begins to wait is as good as given to another one.
_CODE = """
import signal, sys, threading, time

def interrupt():
    looks = 0
    while looks < 5:
        code = sys._current_frames()[threading.main_thread().ident].f_code
        looks = looks + 1 if (code.co_name, code.co_filename[-12:]) == ("select", "selectors.py") else 0
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()

from promenade_bus_cli.main import main

main(sys.argv[1:])
"""


def interrupted_when_idle(*arguments: str) -> list[str]:
    """The command line of ``promenade-bus``, interrupted as soon as its event loop waits for something."""
    return [sys.executable, "-c", _CODE, *arguments]
