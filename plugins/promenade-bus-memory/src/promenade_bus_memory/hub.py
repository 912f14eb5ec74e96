"""Who listens to what: the routing of one bus, or of several buses that share a hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bus_core import Inlet
from bus_core.events import TopicIndex

__all__ = ["MemoryHub"]


class MemoryHub:
    """The subscriptions that share their events. A bus has a hub of its own unless it is given one.

    Buses that share a hub must run on one event loop. Subscriptions of the same group compete for
    events, also over buses; broadcast subscriptions get each of them.
    """

    def __init__(self) -> None:
        self._inlets: TopicIndex[Inlet] = TopicIndex()
        self._watchers: list[Callable[[str], None]] = []

    def attach(self, inlet: Inlet) -> None:
        """From now on the inlet takes part in routing."""
        self._inlets.add(inlet.spec.topic, inlet)
        self._changed(inlet.spec.topic)

    def detach(self, inlet: Inlet) -> None:
        """The inlet takes no part any more; harmless when it was not attached."""
        if self._inlets.discard(inlet.spec.topic, inlet):
            self._changed(inlet.spec.topic)

    def watch(self, changed: Callable[[str], None]) -> None:
        """Calls ``changed`` whenever an inlet comes or goes, with its topic or pattern."""
        self._watchers.append(changed)

    def unwatch(self, changed: Callable[[str], None]) -> None:
        """Undoes ``watch``."""
        self._watchers = [watcher for watcher in self._watchers if watcher != changed]

    def _changed(self, text: str) -> None:
        for watcher in [*self._watchers]:
            watcher(text)

    def route(self, topic: str) -> Sequence[Sequence[Inlet]]:
        """For each group that gets an event of the topic, the inlets that compete for it."""
        groups: dict[object, list[Inlet]] = {}
        for inlet in self._inlets.matching(topic):
            alone = inlet.spec.mode == "broadcast"
            groups.setdefault(inlet if alone else inlet.spec.group, []).append(inlet)
        return [*groups.values()]

    def inlets_of(self, group: str, topic: str) -> Sequence[Inlet]:
        """The inlets of a group that get events of the topic."""
        return [inlet for inlet in self._inlets.matching(topic) if inlet.spec.group == group]
