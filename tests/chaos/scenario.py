"""The parts of a scenario."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

import attrs

from chaos.sites import OneServer, Site

if TYPE_CHECKING:
    from chaos.findings import Findings
    from chaos.stage import Stage


@attrs.frozen
class Size:
    """A number at full length, and in the short form."""

    full: float
    short: float

    def of(self, full: bool) -> float:
        return self.full if full else self.short


@attrs.frozen(kw_only=True)
class Load:
    """The producers and consumers. Times are seconds; see ``roles.Role``."""

    rate: Size = Size(2_000, 400)
    producers: int = 1
    in_flight: int = 256
    threads: int = 0
    filling: int = 0
    mix: tuple[tuple[str, float], ...] = ()
    limit: Size | None = None
    keys: int = 100
    topics: int = 1
    consumers: Size = Size(4, 3)
    concurrency: int = 16
    work: float = 0.002
    ordered: bool = False
    broadcast: bool = False
    """True when each consumer process gets every event; its subscriptions have names of their own then."""

    delay: float | None = 0.05
    attempts: int = 10
    lease: Size = Size(1.5, 1.5)
    shutdown_timeout: float = 5.0
    publish_timeout: float = 10.0
    insists: bool = False
    """True when a producer publishes the same event again after an uncertain publish."""

    durability: Literal["server", "fsync", "replicated"] = "server"
    more: Mapping[str, object] = attrs.field(factory=dict)
    """Further options of the adapter."""


class Injection(Protocol):
    """Something that goes wrong: returns when it is over."""

    def __call__(self, stage: Stage) -> None: ...


Check = Callable[["Findings"], Iterable[str]]
"""Checks besides the account: sentences about violations."""


@attrs.frozen(kw_only=True)
class Scenario:
    """One scenario.

    ``proxied`` are the processes that reach the server through the proxy. ``faults`` are done one after the
    other. ``duplicates`` bounds how often events may be handled once more: so many for each time that
    something was noted, such as ``{"kills": 16}``. ``losses_are_told`` where losing is what the fault does:
    then health must say so.
    """

    number: int
    name: str
    story: str
    load: Load = attrs.field(factory=Load)
    site: Callable[[], Site] = OneServer
    proxied: Literal["nobody", "producers", "consumers", "all"] = "nobody"
    before: tuple[Injection, ...] = ()
    """Runs before the first process is started."""

    faults: tuple[Injection, ...] = ()
    calm: Size = Size(2.0, 0.5)
    """Seconds of load before the first fault and after the last one."""

    duplicates: Mapping[str, int] = attrs.field(factory=dict)
    checks: tuple[Check, ...] = ()
    losses_are_told: bool = False
    patience: float = 60.0
    """Seconds in which everything must be settled after the producers have ended."""
