"""Progress while the demo runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.logging import RichHandler
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bus_core import EngineState
from crm.app import Application

__all__ = ["LiveTable", "PlainLines", "Progress", "Silent"]


class Progress(Protocol):
    """The progress lines of the demo."""

    def watching(self, app: Application) -> AbstractContextManager[None]:
        """A block in which the application is shown."""
        ...

    def step(self, what: str, goal: int = 0) -> None:
        """A new step begins; ``goal`` is how many users it registers, if it does."""
        ...

    def tell(self, what: str) -> None:
        """Something worth a line."""
        ...


class Silent:
    """Says nothing."""

    def watching(self, app: Application) -> AbstractContextManager[None]:
        """See ``Progress``."""
        return contextlib.nullcontext()

    def step(self, what: str, goal: int = 0) -> None:
        """See ``Progress``."""

    def tell(self, what: str) -> None:
        """See ``Progress``."""


class _Periodic:
    """Looks at the application again and again, as a task of its own."""

    interval = 1.0

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.began

    @contextlib.contextmanager
    def looking(self, app: Application) -> Iterator[None]:
        """A block in which ``look`` is called every ``interval`` seconds."""
        task = asyncio.get_running_loop().create_task(self._look_on(app), name="crm-progress")
        try:
            yield
        finally:
            task.cancel()

    async def _look_on(self, app: Application) -> None:
        while True:
            await asyncio.sleep(self.interval)
            self.look(app)

    def look(self, app: Application) -> None:
        """Shows the application as it is now."""
        raise NotImplementedError


class PlainLines(_Periodic):
    """One line per step and per second, with the time since the beginning."""

    def watching(self, app: Application) -> AbstractContextManager[None]:
        """See ``Progress``."""
        return self.looking(app)

    def step(self, what: str, goal: int = 0) -> None:
        """See ``Progress``."""
        self._line(what)

    def tell(self, what: str) -> None:
        """See ``Progress``."""
        self._line(f"  {what}")

    def look(self, app: Application) -> None:
        """See ``_Periodic``."""
        journal, state = app.journal, app.bus.state()
        self._line(
            f"  published {journal.published_count:,}, handled {journal.handled_count:,}, "
            f"failed attempts {journal.failed_count:,}, unsettled {state.unsettled:,}, "
            f"users {app.registration.registered:,}"
        )

    def _line(self, text: str) -> None:
        self.console.print(f"{self.elapsed:6.1f} s  {text}", markup=False, highlight=False, soft_wrap=True)


class LiveTable(_Periodic):
    """A table of the subscriptions that is drawn anew several times a second."""

    interval = 0.2

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.log_handler = RichHandler(console=console, show_path=False, markup=False)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._step = ""
        self._goal = 0

    @contextlib.contextmanager
    def watching(self, app: Application) -> Iterator[None]:
        """See ``Progress``."""
        with self._live, self.looking(app):
            self.look(app)
            yield
            self.look(app)

    def step(self, what: str, goal: int = 0) -> None:
        """See ``Progress``."""
        self._step, self._goal = what, goal
        self._say(Text(f"==> {what}", style="bold"))

    def tell(self, what: str) -> None:
        """See ``Progress``."""
        self._say(Text(f"    {what}"))

    def _say(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)

    def look(self, app: Application) -> None:
        """See ``_Periodic``."""
        self._live.update(self._picture(app, app.bus.state()), refresh=True)

    def _picture(self, app: Application, state: EngineState) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("subscription", min_width=22)
        for heading in ("waiting", "handled", "retried", "dead letters"):
            table.add_column(heading, justify="right", min_width=8)
        for subscription in state.subscriptions:
            table.add_row(
                subscription.name,
                f"{subscription.queued + subscription.running + subscription.waiting_retries:,}",
                f"{subscription.handled:,}",
                f"{subscription.retried:,}",
                Text(str(subscription.dead_lettered), style="red" if subscription.dead_lettered else ""),
            )
        rate = app.journal.handled_count / self.elapsed if self.elapsed else 0.0
        line = Text(
            f"{self.elapsed:5.1f} s   published {app.journal.published_count:,}   "
            f"handled {app.journal.handled_count:,}   {rate:,.0f}/s"
        )
        parts: list[RenderableType] = [line, table]
        if self._goal:
            parts.insert(0, ProgressBar(self._goal, app.registration.registered, width=60))
        return Group(*parts)
