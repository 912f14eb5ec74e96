"""The routing of one bus, or of several buses that share a hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bus_core import Inlet
from bus_core.events import TopicIndex

__all__ = ["MemoryHub"]


class MemoryHub:
    """The subscriptions of one or more buses. By default each bus has its own hub.

    Buses that share a hub must run on one event loop. Subscriptions of the same group compete for
    events, even across buses; a broadcast subscription receives every event.
    """

    def __init__(self) -> None:
        self._inlets: TopicIndex[Inlet] = TopicIndex()
        self._watchers: list[Callable[[str], None]] = []

    def attach(self, inlet: Inlet) -> None:
        """Adds the inlet to the routing."""
        self._inlets.add(inlet.spec.topic, inlet)
        self._changed(inlet.spec.topic)

    def detach(self, inlet: Inlet) -> None:
        """Removes the inlet from the routing; does nothing for an unknown one."""
        if self._inlets.discard(inlet.spec.topic, inlet):
            self._changed(inlet.spec.topic)

    def watch(self, changed: Callable[[str], None]) -> None:
        """Calls ``changed`` with the topic or pattern of each inlet that is added or removed."""
        self._watchers.append(changed)

    def unwatch(self, changed: Callable[[str], None]) -> None:
        """Removes a callback of ``watch``."""
        self._watchers = [watcher for watcher in self._watchers if watcher != changed]

    def _changed(self, text: str) -> None:
        for watcher in [*self._watchers]:
            watcher(text)

    def route(self, topic: str) -> Sequence[Sequence[Inlet]]:
        """Returns, for each group that receives an event of the topic, the inlets that compete for it."""
        groups: dict[object, list[Inlet]] = {}
        for inlet in self._inlets.matching(topic):
            alone = inlet.spec.mode == "broadcast"
            groups.setdefault(inlet if alone else inlet.spec.group, []).append(inlet)
        return [*groups.values()]

    def inlets_of(self, group: str, topic: str) -> Sequence[Inlet]:
        """Returns the inlets of a group that receive events of the topic."""
        return [inlet for inlet in self._inlets.matching(topic) if inlet.spec.group == group]
