"""Actions of people on their accounts, as events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from crm.identity.population import Person
from crm.journal import JournaledBus
from promenade_identity import (
    CONTACT_CREATED,
    CONTACT_DELETED,
    CONTACT_UPDATED,
    CONTACT_VERIFIED,
    USER_ACTIVATED,
    USER_DELETED,
    USER_EMAIL_VERIFIED,
    USER_PASSWORD_CHANGED,
    USER_REGISTERED,
    USER_SUSPENDED,
    ContactChannel,
    ContactCreated,
    ContactDeleted,
    ContactDeletionReason,
    ContactUpdated,
    ContactVerified,
    PasswordChangeMethod,
    SuspensionReason,
    UserActivated,
    UserDeleted,
    UserDeletionReason,
    UserEmailVerified,
    UserPasswordChanged,
    UserRegistered,
    UserSuspended,
)

__all__ = ["Registration"]


class Registration:
    """Leads a person through the life of an account."""

    def __init__(self, bus: JournaledBus) -> None:
        self._bus = bus
        self.registered = 0

    async def enrol(self, person: Person) -> None:
        """Publishes everything that happens to one person, in the order in which it happens."""
        await self._register(person)
        await self._use(person)
        await self._end(person)

    async def _register(self, person: Person) -> None:
        user, publish = person.user_id, self._bus.publish
        registered = UserRegistered(
            aggregate_id=user,
            email=person.email,
            display_name=person.name,
            locale=person.locale,
            method=person.method,
        )
        await publish(USER_REGISTERED, registered)
        self.registered += 1
        contact = ContactCreated(
            aggregate_id=person.contact_id,
            full_name=person.name,
            email=person.email,
            phone=person.phone,
            user_id=user,
            language=person.locale,
        )
        await publish(CONTACT_CREATED, contact)

    async def _use(self, person: Person) -> None:
        user, publish = person.user_id, self._bus.publish
        if person.verifies_email:
            await publish(USER_EMAIL_VERIFIED, UserEmailVerified(aggregate_id=user, email=person.email))
        if person.activates:
            await publish(USER_ACTIVATED, UserActivated(aggregate_id=user))
        if person.verifies_contact:
            channel = ContactChannel.PHONE if person.phone else ContactChannel.EMAIL
            await publish(CONTACT_VERIFIED, ContactVerified(aggregate_id=person.contact_id, channel=channel))
        if person.changes_password:
            changed = UserPasswordChanged(aggregate_id=user, method=PasswordChangeMethod.RESET_LINK)
            await publish(USER_PASSWORD_CHANGED, changed)
        if person.moves:
            moved = ContactUpdated(
                aggregate_id=person.contact_id,
                full_name=person.name,
                email=f"new.{person.email}",
                phone=person.phone,
                user_id=user,
                language=person.locale,
            )
            await publish(CONTACT_UPDATED, moved)

    async def _end(self, person: Person) -> None:
        user, publish = person.user_id, self._bus.publish
        if person.is_suspended:
            suspended = UserSuspended(
                aggregate_id=user,
                reason=SuspensionReason.SECURITY,
                until=datetime.now(UTC) + timedelta(days=30),
                note="Signed in from two continents within an hour.",
            )
            await publish(USER_SUSPENDED, suspended)
        if person.leaves:
            left = UserDeleted(aggregate_id=user, reason=UserDeletionReason.ERASURE_REQUEST)
            await publish(USER_DELETED, left)
            erased = ContactDeleted(
                aggregate_id=person.contact_id, reason=ContactDeletionReason.ERASURE_REQUEST
            )
            await publish(CONTACT_DELETED, erased)
        elif person.is_duplicate:
            obsolete = ContactDeleted(aggregate_id=person.contact_id, reason=ContactDeletionReason.OBSOLETE)
            await publish(CONTACT_DELETED, obsolete)
