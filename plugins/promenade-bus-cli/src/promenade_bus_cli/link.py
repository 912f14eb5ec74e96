"""The link between a command that starts workers and a worker in a process of its own.

The worker tells its parent in JSON lines how far it is. The parent tells it to stop at once, by a byte with
the number of the signal. The worker takes any number of signals as one: a platform such as systemd may signal
both, and the parent passes its signal on. When the parent's process ends, however it ends, the link ends as
well, and the worker drains.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from typing import Any, Final

import attrs

from promenade_bus_cli.failures import REFUSED
from promenade_bus_cli.signals import Signals

__all__ = ["GRACE", "Link", "News"]

GRACE: Final = 5.0
"""Seconds that a worker has to end after its shutdown timeout, before it is killed."""


@attrs.frozen
class News:
    """The state of a worker: ``timeout`` of its drain in seconds, where it serves HTTP, whether it runs."""

    timeout: float
    address: str | None
    running: bool

    def line(self) -> bytes:
        """Returns it as a line."""
        return json.dumps(attrs.asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> News:
        """Reads a line; raises ``ValueError`` when it is none of ours."""
        fields: dict[str, Any] = json.loads(line)
        return cls(float(fields["timeout"]), fields["address"], bool(fields["running"]))


class Link:
    """The worker's end. ``is_one_of_many`` says that others run beside it, so that it prints less."""

    def __init__(self, descriptor: int, *, is_one_of_many: bool) -> None:
        self.is_one_of_many = is_one_of_many
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._news: News | None = None

    def opened(self, timeout: float, address: str | None, signals: Signals) -> None:
        """Tells that the application is loaded. From now on the end of the parent is a SIGTERM."""
        self._send(News(timeout, address, running=False))
        threading.Thread(target=self._watch, args=(timeout, signals), name="parent", daemon=True).start()

    def running(self) -> None:
        """Tells that the bus runs."""
        assert self._news is not None, "it is opened first"
        self._send(attrs.evolve(self._news, running=True))

    def _send(self, news: News) -> None:
        self._news = news
        try:
            self._socket.sendall(news.line())
        except OSError:
            pass  # the parent is gone; the other thread notices

    def _watch(self, timeout: float, signals: Signals) -> None:
        """Stops at once when the parent says so. Its end drains, and ends what does not end by itself."""
        try:
            while numbers := self._socket.recv(64):
                signals.stop_at_once(numbers[-1])
        except OSError:
            pass
        if signals.first is None:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(timeout + GRACE)
        os._exit(REFUSED)
