"""The events of the scenarios."""

from __future__ import annotations

from uuid import NAMESPACE_URL, UUID, uuid5

from bus_core import Event, Topic, event


@event
class Task(Event):
    """Something to do; ``plan`` says what becomes of it, see ``plans``."""

    number: int
    plan: str = ""
    filling: str = ""


@event(type="task", version=2)
class NewTask(Event):
    """The same as newer code knows it: neither version can read what the other has written."""

    number: str
    plan: str = ""
    filling: str = ""


def topic(index: int) -> Topic[Task]:
    """One of the topics of a load."""
    return Topic(f"chaos.work{index}.done", Task)


def key(index: int) -> UUID:
    """One of the keys that events have."""
    return uuid5(NAMESPACE_URL, f"chaos:{index}")
