"""Offers this context's topics to the bus; found through its entry point."""

from __future__ import annotations

from collections.abc import Sequence

from bus_core import TopicCatalogue, hookimpl


@hookimpl
def promenade_bus_topics() -> Sequence[TopicCatalogue]:
    """The topics that the context ``identity`` owns. The events are imported when a bus asks for them."""
    from promenade_identity.catalogue import CATALOGUE

    return [CATALOGUE]
