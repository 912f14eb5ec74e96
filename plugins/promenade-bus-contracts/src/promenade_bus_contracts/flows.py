"""The flows of events between contexts and services."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from promenade_bus_contracts.boundaries import context_of
from promenade_bus_contracts.boundary_settings import Boundaries
from promenade_bus_contracts.published import Contract, Subscriber

__all__ = ["Flow", "consumer_of", "flows_of"]


@attrs.frozen
class Flow:
    """The topics of one context that one consumer receives. A consumer is a context or a service."""

    source: str
    target: str
    topics: tuple[str, ...]


def consumer_of(subscriber: Subscriber, boundaries: Boundaries | None) -> str:
    """Returns the context whose code has the handler, or else the service."""
    context = None if boundaries is None else context_of(subscriber.handler, boundaries)
    return context or subscriber.service


def flows_of(
    contracts: Iterable[Contract], subscribers: Sequence[Subscriber], boundaries: Boundaries | None
) -> list[Flow]:
    """Returns the flows from each context to each consumer, sorted."""
    topics: dict[tuple[str, str], dict[str, None]] = {}
    for contract in contracts:
        for name in contract.topics:
            for subscriber in subscribers:
                if subscriber.takes(name):
                    pair = contract.context, consumer_of(subscriber, boundaries)
                    topics.setdefault(pair, {})[name] = None
    return [Flow(*pair, tuple(topics[pair])) for pair in sorted(topics)]
