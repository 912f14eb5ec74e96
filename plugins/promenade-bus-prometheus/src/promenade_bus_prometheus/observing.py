"""Builds the observer: figures on demand in one process, copied again and again where there are several."""

from __future__ import annotations

import os
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from bus_core import ObservedBus, Observer
from promenade_bus_prometheus.collector import collector_of
from promenade_bus_prometheus.config import PrometheusOptions
from promenade_bus_prometheus.watched import WatchedBus

__all__ = ["observer"]

MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of the environment by which ``prometheus_client`` is told that there are several processes."""


def observer(options: PrometheusOptions, service: str) -> Observer:
    """The observer of one bus."""
    watched = WatchedBus(options)
    if os.environ.get(MULTIPROCESS):
        from promenade_bus_prometheus.multiprocess import SharedFigures

        shared = SharedFigures(watched, options, service)
        timing = shared.timing if options.durations else None
        return Observer(timing=timing, start=shared.start, close=shared.close, scrape=_scrape_all)
    collector = collector_of(REGISTRY)

    async def start(bus: ObservedBus) -> None:
        await watched.start(bus)
        collector.add(watched)

    async def close() -> None:
        await watched.close()
        collector.remove(watched)

    timing = watched.timing if options.durations else None
    return Observer(timing=timing, start=start, close=close, scrape=_scrape)


def _scrape(accept: str) -> tuple[str, bytes]:
    return _encoded(REGISTRY, accept)


def _scrape_all(accept: str) -> tuple[str, bytes]:
    """The figures of every process that shares the directory."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return _encoded(registry, accept)


def _encoded(registry: CollectorRegistry, accept: str) -> tuple[str, bytes]:
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)
