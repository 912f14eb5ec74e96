"""The names of the adapter's keys on the server.

===========================  =========  ==================================================================
key                          type       what it holds
===========================  =========  ==================================================================
``p:{topic}``                stream     the events of the topic; a consumer group for each subscription
``p:{topic}:inbox:group``    stream     what came back to one group: released, redriven, or waited for
``p:{topic}:parked:group``   zset       what waits for a retry, by the server's time at which it would be due
``p:{topic}:notes:group``    hash       for what is pending and was tried before: its attempts so far
``p:{topic}:dead``           stream     dead letters of all groups
``p:{topic}:fence:group``    string     the highest token of an instance that was active (ordered)
``p:{topic}:replays``        hash       for each replay of the last days where it is, and what it has done
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

``p`` is the option ``prefix``. The braces are part of the key, so that all keys of a topic share a slot of a
cluster. A key without braces is never used together with another key. A group is quoted as in a URL, so that
no name of a service or subscription can collide with another key. The inbox of one instance of a broadcast
subscription ends with ``@instance``.
"""

from __future__ import annotations

from urllib.parse import quote

import attrs

__all__ = ["Keys"]


@attrs.frozen
class Keys:
    """Makes key names; ``prefix`` begins each of them."""

    prefix: str
    is_cluster: bool = False

    def stream(self, topic: str) -> str:
        """Returns the stream of a topic's events."""
        return f"{self.prefix}:{{{topic}}}"

    def inbox(self, topic: str, group: str, instance: str = "") -> str:
        """Returns the inbox of a group, or of one instance of a broadcast subscription."""
        place = f"@{instance}" if instance else ""
        return f"{self.prefix}:{{{topic}}}:inbox:{quote(group, safe='')}{place}"

    def parked(self, topic: str, group: str) -> str:
        """Returns the sorted set of a group's parked retries."""
        return f"{self.prefix}:{{{topic}}}:parked:{quote(group, safe='')}"

    def notes(self, topic: str, group: str) -> str:
        """Returns the hash with the attempts of pending events."""
        return f"{self.prefix}:{{{topic}}}:notes:{quote(group, safe='')}"

    def dead(self, topic: str) -> str:
        """Returns the stream of dead letters."""
        return f"{self.prefix}:{{{topic}}}:dead"

    def fence(self, topic: str, group: str) -> str:
        """Returns the key with the token of the active instance of an ordered group."""
        return f"{self.prefix}:{{{topic}}}:fence:{quote(group, safe='')}"

    def replays(self, topic: str) -> str:
        """Returns the hash with the progress of replays."""
        return f"{self.prefix}:{{{topic}}}:replays"

    def trimmed(self, topic: str) -> str:
        """Returns the counter of entries that the bus has trimmed."""
        return f"{self.prefix}:{{{topic}}}:trimmed"

    def settled(self, topic: str) -> str:
        """Returns the hash with the settled entries of each group."""
        return f"{self.prefix}:{{{topic}}}:settled"

    def told(self, topic: str) -> str:
        """Returns the hash with the losses that instances have counted."""
        return f"{self.prefix}:{{{topic}}}:told"

    def losses_of(self, topic: str) -> str:
        """Returns the hash where a script counts the losses of a topic on a cluster."""
        return f"{self.prefix}:{{{topic}}}:losses" if self.is_cluster else self.losses

    def trim_fence(self, topic: str) -> str:
        """Returns the key with the token of the trimming instance."""
        return f"{self.prefix}:{{{topic}}}:fence"

    def active(self, topic: str, group: str) -> str:
        """Returns the lock of an ordered group on a topic or pattern."""
        return f"{self.prefix}:{{{topic}}}:active:{quote(group, safe='')}"

    def name_lock(self, consumer: str) -> str:
        """Returns the lock of a configured consumer name."""
        return f"{self.prefix}:consumer:{consumer}"

    @property
    def topics(self) -> str:
        """The set of topics."""
        return f"{self.prefix}:topics"

    @property
    def heartbeats(self) -> str:
        """The sorted set of instances and their heartbeats."""
        return f"{self.prefix}:heartbeats"

    @property
    def due(self) -> str:
        """The hints about parked retries."""
        return f"{self.prefix}:due"

    @property
    def latest_topics(self) -> str:
        """The stream of the latest topics."""
        return f"{self.prefix}:topics:latest"

    @property
    def record(self) -> str:
        """The record of subscriptions and services."""
        return f"{self.prefix}:record"

    @property
    def losses(self) -> str:
        """The hash with the lost events, by topic and group, separated by a space."""
        return f"{self.prefix}:losses"

    @property
    def layout(self) -> str:
        """The key with the layout number."""
        return f"{self.prefix}:layout"

    @property
    def epoch(self) -> str:
        """The key with the time at which the data began."""
        return f"{self.prefix}:epoch"

    @property
    def upkeep(self) -> str:
        """The lock of the trimming instance."""
        return f"{self.prefix}:upkeep"
