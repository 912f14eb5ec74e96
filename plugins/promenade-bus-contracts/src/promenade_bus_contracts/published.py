"""The published contracts: the topics of catalogues, with their classes and schemas, and who subscribes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from bus_core import BaseEvent, Event, Topic, TopicCatalogue, TopicPattern
from bus_core.events import event_type_of, event_version_of, has_personal_part, model_of
from bus_core.serialization import schema_of

__all__ = ["Contract", "PublishedTopic", "Subscriber", "contracts_of"]


@attrs.frozen
class Subscriber:
    """A subscription of an application. ``topic`` is a topic's name or a pattern."""

    name: str
    service: str
    topic: str
    handler: str

    def takes(self, topic: str) -> bool:
        """Returns True if it receives the events of that topic."""
        return TopicPattern(self.topic).matches(topic)

    def __str__(self) -> str:
        return f"{self.name} (service {self.service}, {self.handler})"


@attrs.frozen(eq=False)
class PublishedTopic:
    """A topic of a catalogue, with everything that its subscribers rely on."""

    topic: Topic[Any]
    context: str

    @property
    def name(self) -> str:
        return self.topic.name

    @property
    def event_class(self) -> type[Event[Any]]:
        return self.topic.event_class

    @property
    def is_typed(self) -> bool:
        """False for a topic that carries events without a class of their own."""
        return self.event_class is not Event and not issubclass(self.event_class, BaseEvent)

    @property
    def type(self) -> str:
        return event_type_of(self.event_class)

    @property
    def version(self) -> int:
        return event_version_of(self.event_class)

    @property
    def ids(self) -> str:
        """The kind of the aggregate ids: ``uuid``, ``int``, ``text`` or ``any``."""
        return str(model_of(self.event_class).id.kind)

    @property
    def personal(self) -> list[str]:
        """The names of the fields with personal data."""
        fields = model_of(self.event_class).own.fields if self.is_typed else ()
        return sorted(field.key for field in fields if has_personal_part(field.shape))

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the data."""
        return schema_of(self.event_class)

    @property
    def summary(self) -> str:
        """The first sentence of the class's docstring."""
        text = inspect.cleandoc(self.event_class.__doc__ or "").partition("\n\n")[0]
        return " ".join(text.split())


@attrs.frozen(eq=False)
class Contract:
    """The topics that one context owns, by name.

    ``owner`` is the distribution that publishes them, and ``release`` its version, if that is known.
    """

    context: str
    owner: str
    release: str | None
    topics: Mapping[str, PublishedTopic]


def contracts_of(catalogues: Iterable[tuple[TopicCatalogue, str]]) -> dict[str, Contract]:
    """Returns the contract of each context, sorted; several catalogues of one context are joined."""
    topics: dict[str, dict[str, PublishedTopic]] = {}
    owners: dict[str, Sequence[str]] = {}
    releases: dict[str, str] = {}
    for catalogue, origin in catalogues:
        known = topics.setdefault(catalogue.context, {})
        known |= {topic.name: PublishedTopic(topic, catalogue.context) for topic in catalogue}
        owner = re.sub(" [0-9][^ ]*$", "", origin)  # each release would change the lock file
        if owner != origin:
            releases[catalogue.context] = origin.rpartition(" ")[2]
        owners[catalogue.context] = list(dict.fromkeys([*owners.get(catalogue.context, ()), owner]))
    return {
        context: Contract(
            context,
            ", ".join(sorted(owners[context])),
            releases.get(context),
            dict(sorted(topics[context].items())),
        )
        for context in sorted(topics)
    }
