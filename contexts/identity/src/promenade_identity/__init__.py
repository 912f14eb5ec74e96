"""The published contract of the context ``identity``: its events, their values, and their topics."""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from promenade_identity.catalogue import (
        CATALOGUE,
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
    )
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
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "catalogue": """
                CATALOGUE CONTACT_CREATED CONTACT_DELETED CONTACT_UPDATED CONTACT_VERIFIED USER_ACTIVATED
                USER_DELETED USER_EMAIL_VERIFIED USER_PASSWORD_CHANGED USER_REGISTERED USER_SUSPENDED
            """,
            "events": """
                ContactCreated ContactDeleted ContactUpdated ContactVerified UserActivated UserDeleted
                UserEmailVerified UserPasswordChanged UserRegistered UserSuspended
            """,
            "values": """
                ContactChannel ContactDeletionReason EmailAddress LanguageTag Note PasswordChangeMethod
                PersonName PhoneNumber RegistrationMethod SuspensionReason UserDeletionReason
            """,
        },
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
    "ContactChannel",
    "ContactCreated",
    "ContactDeleted",
    "ContactDeletionReason",
    "ContactUpdated",
    "ContactVerified",
    "EmailAddress",
    "LanguageTag",
    "Note",
    "PasswordChangeMethod",
    "PersonName",
    "PhoneNumber",
    "RegistrationMethod",
    "SuspensionReason",
    "UserActivated",
    "UserDeleted",
    "UserDeletionReason",
    "UserEmailVerified",
    "UserPasswordChanged",
    "UserRegistered",
    "UserSuspended",
]
