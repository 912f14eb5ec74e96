from __future__ import annotations

import pytest

from promenade_shared import CATALOGUE, events, plugin

TOPICS = {
    "shared.country.created": "CountryCreated",
    "shared.country.updated": "CountryUpdated",
    "shared.country.deactivated": "CountryDeactivated",
    "shared.currency.created": "CurrencyCreated",
    "shared.currency.updated": "CurrencyUpdated",
    "shared.currency.deactivated": "CurrencyDeactivated",
    "shared.language.created": "LanguageCreated",
    "shared.language.updated": "LanguageUpdated",
    "shared.language.deactivated": "LanguageDeactivated",
    "shared.timezone.created": "TimezoneCreated",
    "shared.timezone.updated": "TimezoneUpdated",
    "shared.timezone.deactivated": "TimezoneDeactivated",
}


@pytest.mark.parametrize(("name", "class_name"), TOPICS.items())
def test_topic(name: str, class_name: str) -> None:
    """Each published topic carries its own class of event."""
    topic = {topic.name: topic for topic in CATALOGUE}[name]
    assert topic.event_class is getattr(events, class_name)


def test_no_other_topic() -> None:
    """The catalogue holds exactly the published topics, in the order of the contract."""
    assert [topic.name for topic in CATALOGUE] == list(TOPICS)


def test_plugin() -> None:
    """The plugin offers the catalogue of this context to the bus."""
    assert plugin.promenade_bus_topics() == [CATALOGUE]
