"""Events of users and contacts.

A user is an account that can sign in. A contact is a person one can reach, with or without an account.
``aggregate_id`` is the id of the user or of the contact. Ids named ``..._by`` are ids of users; None means
the person concerned, or the system itself.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from bus_core import Event, InvalidEvent, Personal, event
from promenade_identity.values import (
    ContactChannel,
    ContactDeletionReason,
    EmailAddress,
    LanguageTag,
    Note,
    PasswordChangeMethod,
    PersonName,
    PhoneNumber,
    RegistrationMethod,
    SuspensionReason,
    UserDeletionReason,
)

__all__ = [
    "ContactCreated",
    "ContactDeleted",
    "ContactUpdated",
    "ContactVerified",
    "UserActivated",
    "UserDeleted",
    "UserEmailVerified",
    "UserPasswordChanged",
    "UserRegistered",
    "UserSuspended",
]


# --- users ------------------------------------------------------------------------------------------------


@event
class UserRegistered(Event):
    """A person created an account, or one was created for them; it is not active yet."""

    email: Personal[EmailAddress]
    """The address to sign in with; not verified yet."""

    display_name: Personal[PersonName] | None = None
    """The name that the person wants to be called by, if given."""

    locale: LanguageTag | None = None
    """BCP 47; None when the person stated no preference."""

    method: RegistrationMethod = RegistrationMethod.PASSWORD


@event
class UserActivated(Event):
    """An account can be used, for the first time or again after a suspension."""

    activated_by: UUID | None = None


@event
class UserSuspended(Event):
    """An account can no longer be used, for a while or until further notice."""

    reason: SuspensionReason

    until: datetime | None = None
    """When the suspension ends by itself, after ``occurred_at``; None for until further notice."""

    suspended_by: UUID | None = None

    note: Personal[Note] = ""
    """For those who handle the case."""

    def __attrs_post_init__(self) -> None:
        if self.until is not None and self.until <= self.occurred_at:
            raise InvalidEvent("UserSuspended", ["until must be after occurred_at"])


@event(type="user.password_changed")
class UserPasswordChanged(Event):
    """The password of an account was replaced. Neither the old nor the new one is told to anybody."""

    method: PasswordChangeMethod

    sessions_revoked: bool = True
    """True when every other session of the account was signed out."""


@event(type="user.email_verified")
class UserEmailVerified(Event):
    """A person proved that the e-mail address of their account is theirs."""

    email: Personal[EmailAddress]
    """The address that was verified, which the account may have replaced since."""


@event
class UserDeleted(Event):
    """An account was deleted for good; its id will not be used again."""

    reason: UserDeletionReason
    deleted_by: UUID | None = None


# --- contacts ---------------------------------------------------------------------------------------------


@event
class ContactCreated(Event):
    """A person one can reach became known."""

    full_name: Personal[PersonName]

    email: Personal[EmailAddress] | None = None
    phone: Personal[PhoneNumber] | None = None
    """At least one of ``email`` and ``phone`` is given."""

    user_id: UUID | None = None
    """The account of the same person, if they have one."""

    language: LanguageTag | None = None
    """BCP 47; the language to write in, when it is known."""

    def __attrs_post_init__(self) -> None:
        if self.email is None and self.phone is None:
            raise InvalidEvent("ContactCreated", ["email or phone must be given: a contact can be reached"])


@event
class ContactUpdated(Event):
    """The data of a contact changed; the event carries its whole new state."""

    full_name: Personal[PersonName]

    email: Personal[EmailAddress] | None = None
    phone: Personal[PhoneNumber] | None = None
    """At least one of ``email`` and ``phone`` is given."""

    user_id: UUID | None = None
    """The account of the same person, if they have one."""

    language: LanguageTag | None = None
    """BCP 47; the language to write in, when it is known."""

    def __attrs_post_init__(self) -> None:
        if self.email is None and self.phone is None:
            raise InvalidEvent("ContactUpdated", ["email or phone must be given: a contact can be reached"])


@event
class ContactVerified(Event):
    """A contact proved that they are reached by one of their channels."""

    channel: ContactChannel


@event
class ContactDeleted(Event):
    """A contact was deleted for good; its id will not be used again."""

    reason: ContactDeletionReason

    merged_into: UUID | None = None
    """The contact that is kept. Given exactly when the reason is ``duplicate``."""

    def __attrs_post_init__(self) -> None:
        if (self.merged_into is not None) != (self.reason is ContactDeletionReason.DUPLICATE):
            raise InvalidEvent(
                "ContactDeleted", ["merged_into must be given exactly when reason is duplicate"]
            )
        if self.merged_into == self.aggregate_id:
            raise InvalidEvent("ContactDeleted", ["merged_into must be another contact"])
