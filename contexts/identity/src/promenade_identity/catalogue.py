"""The topics of users and contacts."""

from __future__ import annotations

from bus_core import Topic, TopicCatalogue
from promenade_identity.events import (
    ContactCreated,
    ContactDeleted,
    ContactUpdated,
    ContactVerified,
    UserActivated,
    UserDeleted,
    UserEmailVerified,
    UserPasswordChanged,
    UserRegistered,
    UserSuspended,
)

__all__ = [
    "CATALOGUE",
    "CONTACT_CREATED",
    "CONTACT_DELETED",
    "CONTACT_UPDATED",
    "CONTACT_VERIFIED",
    "USER_ACTIVATED",
    "USER_DELETED",
    "USER_EMAIL_VERIFIED",
    "USER_PASSWORD_CHANGED",
    "USER_REGISTERED",
    "USER_SUSPENDED",
]

USER_REGISTERED = Topic("identity.user.registered", UserRegistered)
USER_ACTIVATED = Topic("identity.user.activated", UserActivated)
USER_SUSPENDED = Topic("identity.user.suspended", UserSuspended)
USER_PASSWORD_CHANGED = Topic("identity.user.password_changed", UserPasswordChanged)
USER_EMAIL_VERIFIED = Topic("identity.user.email_verified", UserEmailVerified)
USER_DELETED = Topic("identity.user.deleted", UserDeleted)
CONTACT_CREATED = Topic("identity.contact.created", ContactCreated)
CONTACT_UPDATED = Topic("identity.contact.updated", ContactUpdated)
CONTACT_VERIFIED = Topic("identity.contact.verified", ContactVerified)
CONTACT_DELETED = Topic("identity.contact.deleted", ContactDeleted)

CATALOGUE = TopicCatalogue(
    "identity",
    (
        USER_REGISTERED,
        USER_ACTIVATED,
        USER_SUSPENDED,
        USER_PASSWORD_CHANGED,
        USER_EMAIL_VERIFIED,
        USER_DELETED,
        CONTACT_CREATED,
        CONTACT_UPDATED,
        CONTACT_VERIFIED,
        CONTACT_DELETED,
    ),
)
