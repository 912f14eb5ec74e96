"""The names of everything that the adapter keeps on the server.

===========================  =========  ==================================================================
key                          type       what it holds
===========================  =========  ==================================================================
``p:{topic}``                stream     the events of the topic; a consumer group for each subscription
``p:{topic}:inbox:group``    stream     what came back to one group: released, redriven, or waited for
``p:{topic}:parked:group``   zset       what waits for a retry, by the server's time at which it would be due
``p:{topic}:notes:group``    hash       for what is pending and was tried before: its attempts so far
``p:{topic}:dead``           stream     dead letters of all groups
``p:{topic}:fence:group``    string     the highest token of an instance that was active (ordered)
``p:{topic}:trimmed``        string     how many entries the bus itself has trimmed
``p:{topic}:fence``          string     the highest token of an instance that has trimmed
``p:{topic}:active:group``   hash       the consumer that is active (ordered), and its token; ``topic`` may
                                        be a pattern
``p:{topic}:settled``        hash       for each group how many entries it has settled, or lost, from 2^50 on
``p:{topic}:told``           hash       which losses instances have counted that no script can see
``p:{topic}:losses``         hash       on a cluster, where losses are counted before they are in ``p:losses``
``p:consumer:name``          hash       the instance that has a configured consumer name
``p:topics``                 set        every topic that was published or subscribed to
``p:topics:latest``          stream     those that were entered last, for who knows the others
``p:record``                 hash       what services are owed, and who serves it: see ``streams.record``
``p:heartbeats``             zset       instances, and how far each has counted up its heartbeat
``p:due``                    zset       hints: which groups have something parked
===========================  =========  ==================================================================

``p`` is the option ``prefix``. The braces are part of the name: what belongs to a topic shares a slot of a
cluster. What has no braces is never used together with another key. A group is quoted as in a URL, so that no
name of a service or a subscription reaches into another key; what goes back to one instance of a broadcast
subscription has ``@instance`` behind that.
"""

from __future__ import annotations

from urllib.parse import quote

import attrs

__all__ = ["Keys"]


@attrs.frozen
class Keys:
    """Makes the names; ``prefix`` begins each of them."""

    prefix: str
    is_cluster: bool = False

    def stream(self, topic: str) -> str:
        """The events of a topic."""
        return f"{self.prefix}:{{{topic}}}"

    def inbox(self, topic: str, group: str, instance: str = "") -> str:
        """What came back to one group, or to one instance of a broadcast subscription."""
        place = f"@{instance}" if instance else ""
        return f"{self.prefix}:{{{topic}}}:inbox:{quote(group, safe='')}{place}"

    def parked(self, topic: str, group: str) -> str:
        """What waits for a retry."""
        return f"{self.prefix}:{{{topic}}}:parked:{quote(group, safe='')}"

    def notes(self, topic: str, group: str) -> str:
        """The attempts of what is pending."""
        return f"{self.prefix}:{{{topic}}}:notes:{quote(group, safe='')}"

    def dead(self, topic: str) -> str:
        """Dead letters."""
        return f"{self.prefix}:{{{topic}}}:dead"

    def fence(self, topic: str, group: str) -> str:
        """Who may read for an ordered group."""
        return f"{self.prefix}:{{{topic}}}:fence:{quote(group, safe='')}"

    def trimmed(self, topic: str) -> str:
        """How many entries were trimmed by the bus."""
        return f"{self.prefix}:{{{topic}}}:trimmed"

    def settled(self, topic: str) -> str:
        """What groups have done with."""
        return f"{self.prefix}:{{{topic}}}:settled"

    def told(self, topic: str) -> str:
        """Which losses instances have counted."""
        return f"{self.prefix}:{{{topic}}}:told"

    def losses_of(self, topic: str) -> str:
        """Where a script counts what is lost of a topic: on a cluster it reaches no other place."""
        return f"{self.prefix}:{{{topic}}}:losses" if self.is_cluster else self.losses

    def trim_fence(self, topic: str) -> str:
        """Who may trim."""
        return f"{self.prefix}:{{{topic}}}:fence"

    def active(self, topic: str, group: str) -> str:
        """The lock of an ordered group on a topic or a pattern."""
        return f"{self.prefix}:{{{topic}}}:active:{quote(group, safe='')}"

    def name_lock(self, consumer: str) -> str:
        """Who has a configured consumer name."""
        return f"{self.prefix}:consumer:{consumer}"

    @property
    def topics(self) -> str:
        """The registry of topics."""
        return f"{self.prefix}:topics"

    @property
    def heartbeats(self) -> str:
        """The instances, and their heartbeats."""
        return f"{self.prefix}:heartbeats"

    @property
    def due(self) -> str:
        """Hints about what is parked."""
        return f"{self.prefix}:due"

    @property
    def latest_topics(self) -> str:
        """The topics that were entered last."""
        return f"{self.prefix}:topics:latest"

    @property
    def record(self) -> str:
        """What services are owed, and who serves it."""
        return f"{self.prefix}:record"

    @property
    def losses(self) -> str:
        """How many events were lost, by topic and group, with a blank between."""
        return f"{self.prefix}:losses"

    @property
    def layout(self) -> str:
        """The number of the layout of all keys."""
        return f"{self.prefix}:layout"

    @property
    def epoch(self) -> str:
        """When the data of the server began."""
        return f"{self.prefix}:epoch"

    @property
    def upkeep(self) -> str:
        """The lock of whoever trims."""
        return f"{self.prefix}:upkeep"
