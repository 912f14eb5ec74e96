from __future__ import annotations

import pytest

from promenade_customer import CATALOGUE, events, plugin

TOPICS = {
    "customer.customer.created": "CustomerCreated",
    "customer.customer.updated": "CustomerUpdated",
    "customer.customer.qualified": "CustomerQualified",
    "customer.customer.converted": "CustomerConverted",
    "customer.customer.churned": "CustomerChurned",
    "customer.customer.reactivated": "CustomerReactivated",
    "customer.customer.tier_changed": "CustomerTierChanged",
    "customer.customer.reassigned": "CustomerReassigned",
    "customer.company.created": "CompanyCreated",
    "customer.company.activated": "CompanyActivated",
    "customer.company.deactivated": "CompanyDeactivated",
    "customer.deal.created": "DealCreated",
    "customer.deal.stage_changed": "DealStageChanged",
    "customer.deal.won": "DealWon",
    "customer.deal.lost": "DealLost",
    "customer.interaction.logged": "InteractionLogged",
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
