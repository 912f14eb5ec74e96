"""An example of every event, in the order of the catalogue, for tests of those who subscribe."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from bus_core import Event
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
from promenade_identity.values import (
    ContactChannel,
    ContactDeletionReason,
    PasswordChangeMethod,
    RegistrationMethod,
    SuspensionReason,
    UserDeletionReason,
)

__all__ = ["EXAMPLES"]

_ADA = UUID("0191d4c0-0000-7000-8000-000000000001")
_ADMINISTRATOR = UUID("0191d4c0-0000-7000-8000-000000000002")
_CONTACT = UUID("0191d4c0-0000-7000-8000-000000000003")
_OTHER_CONTACT = UUID("0191d4c0-0000-7000-8000-000000000004")

EXAMPLES: tuple[Event, ...] = (
    UserRegistered(
        aggregate_id=_ADA,
        email="ada@example.org",
        display_name="Ada",
        locale="en-GB",
        method=RegistrationMethod.INVITATION,
    ),
    UserActivated(aggregate_id=_ADA, activated_by=_ADMINISTRATOR),
    UserSuspended(
        aggregate_id=_ADA,
        reason=SuspensionReason.SECURITY,
        until=datetime(2099, 12, 31, 12, 0, tzinfo=UTC),
        suspended_by=_ADMINISTRATOR,
        note="Signed in from two continents within an hour.",
    ),
    UserPasswordChanged(aggregate_id=_ADA, method=PasswordChangeMethod.RESET_LINK, sessions_revoked=True),
    UserEmailVerified(aggregate_id=_ADA, email="ada@example.org"),
    UserDeleted(aggregate_id=_ADA, reason=UserDeletionReason.ERASURE_REQUEST, deleted_by=_ADMINISTRATOR),
    ContactCreated(
        aggregate_id=_CONTACT,
        full_name="Ada Lovelace",
        email="ada@example.org",
        phone="+442071234567",
        user_id=_ADA,
        language="en-GB",
    ),
    ContactUpdated(aggregate_id=_CONTACT, full_name="Ada King, Countess of Lovelace", phone="+442071234567"),
    ContactVerified(aggregate_id=_CONTACT, channel=ContactChannel.PHONE),
    ContactDeleted(aggregate_id=_OTHER_CONTACT, reason=ContactDeletionReason.DUPLICATE, merged_into=_CONTACT),
)
