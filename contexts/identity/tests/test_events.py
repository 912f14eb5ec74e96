from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import attrs
import pytest

from bus_core import InvalidEvent
from promenade_identity import (
    ContactCreated,
    ContactDeleted,
    ContactDeletionReason,
    ContactUpdated,
    ContactVerified,
    RegistrationMethod,
    SuspensionReason,
    UserActivated,
    UserEmailVerified,
    UserPasswordChanged,
    UserRegistered,
    UserSuspended,
)
from promenade_identity.examples import EXAMPLES

BY_CLASS: dict[type, Any] = {type(example): example for example in EXAMPLES}


def test_smallest_registration() -> None:
    """A registration needs an e-mail address and nothing else."""
    event = UserRegistered(aggregate_id=uuid4(), email="a@b.c")
    assert event.email == "a@b.c"
    assert event.display_name is None
    assert event.method is RegistrationMethod.PASSWORD


@pytest.mark.parametrize(
    ("event_class", "field", "value", "wanted"),
    [
        (UserRegistered, "email", "ada", "an e-mail address"),
        (UserRegistered, "email", None, "a str"),
        (UserRegistered, "display_name", "", "a text of 1 to 200 characters"),
        (UserRegistered, "display_name", "Ada\n", "a text of 1 to 200 characters"),
        (UserRegistered, "locale", "de_CH", "a BCP 47 language tag with hyphens"),
        (UserRegistered, "method", "password", "one of RegistrationMethod.PASSWORD"),
        (UserRegistered, "occurred_at", datetime(2025, 1, 1), "an aware datetime"),
        (UserActivated, "activated_by", "admin", "a UUID"),
        (UserActivated, "aggregate_id", "42", "a UUID"),
        (UserSuspended, "reason", "because", "one of SuspensionReason"),
        (UserSuspended, "note", "x" * 2001, "a text of at most 2,000 characters"),
        (UserSuspended, "note", "\udfff", "without lone surrogates"),
        (UserSuspended, "until", datetime(2999, 1, 1), "an aware datetime"),
        (UserSuspended, "until", datetime(1999, 1, 1, tzinfo=UTC), "after occurred_at"),
        (UserPasswordChanged, "method", None, "one of PasswordChangeMethod"),
        (UserPasswordChanged, "sessions_revoked", 1, "a bool"),
        (UserEmailVerified, "email", "ada@@example.org", "an e-mail address"),
        (ContactCreated, "phone", "044 123 45 67", "a phone number in E.164 form"),
        (ContactCreated, "email", "ada@localhost", "an e-mail address"),
        (ContactCreated, "full_name", " Ada", "a text of 1 to 200 characters"),
        (ContactUpdated, "phone", "+4144123456789012", "a phone number in E.164 form"),
        (ContactVerified, "channel", "email", "one of ContactChannel.EMAIL"),
        (ContactDeleted, "merged_into", None, "given exactly when reason is duplicate"),
    ],
)
def test_bad_value(event_class: type, field: str, value: object, wanted: str) -> None:
    """A bad value is refused when the event is made; the error names the field and what it must be."""
    with pytest.raises(InvalidEvent) as caught:
        attrs.evolve(BY_CLASS[event_class], **{field: value})
    assert f"{field} must be" in str(caught.value)
    assert wanted in str(caught.value)
    assert event_class.__name__ in str(caught.value)


@pytest.mark.parametrize("event_class", [ContactCreated, ContactUpdated])
def test_contact_can_be_reached(event_class: type[ContactCreated] | type[ContactUpdated]) -> None:
    """A contact without an e-mail address and without a phone number is refused."""
    with pytest.raises(InvalidEvent, match="email or phone must be given"):
        event_class(aggregate_id=uuid4(), full_name="Ada Lovelace")


def test_contact_merged_into_itself() -> None:
    """A duplicate contact is merged into another one."""
    contact = uuid4()
    with pytest.raises(InvalidEvent, match="merged_into must be another contact"):
        ContactDeleted(aggregate_id=contact, reason=ContactDeletionReason.DUPLICATE, merged_into=contact)


def test_contact_merged_without_being_a_duplicate() -> None:
    """Only a duplicate contact is merged into another one."""
    with pytest.raises(InvalidEvent, match="merged_into must be given exactly when reason is duplicate"):
        ContactDeleted(aggregate_id=uuid4(), reason=ContactDeletionReason.OBSOLETE, merged_into=uuid4())


def test_suspension_ends_in_any_zone() -> None:
    """The end of a suspension may be told in any time zone; it is the instant that counts."""
    now = datetime(2025, 1, 1, 12, 0, tzinfo=UTC)
    zone = timezone(timedelta(hours=10))
    with pytest.raises(InvalidEvent, match="until must be after occurred_at"):
        UserSuspended(
            aggregate_id=uuid4(),
            occurred_at=now,
            reason=SuspensionReason.ABUSE,
            until=datetime(2025, 1, 1, 21, 0, tzinfo=zone),
        )
