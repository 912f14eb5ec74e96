from __future__ import annotations

import pytest

from promenade_identity import CATALOGUE, events, plugin

TOPICS = {
    "identity.user.registered": "UserRegistered",
    "identity.user.activated": "UserActivated",
    "identity.user.suspended": "UserSuspended",
    "identity.user.password_changed": "UserPasswordChanged",
    "identity.user.email_verified": "UserEmailVerified",
    "identity.user.deleted": "UserDeleted",
    "identity.contact.created": "ContactCreated",
    "identity.contact.updated": "ContactUpdated",
    "identity.contact.verified": "ContactVerified",
    "identity.contact.deleted": "ContactDeleted",
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
