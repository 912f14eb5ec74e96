"""The value types of people and how they are reached."""

from __future__ import annotations

import enum
import re
from typing import Annotated

from bus_core import Constraint

__all__ = [
    "ContactChannel",
    "ContactDeletionReason",
    "EmailAddress",
    "LanguageTag",
    "Note",
    "PasswordChangeMethod",
    "PersonName",
    "PhoneNumber",
    "RegistrationMethod",
    "SuspensionReason",
    "UserDeletionReason",
]


# A sanity check that refuses what cannot be delivered to and accepts what real people have: the dot-atom of
# RFC 5322 with the letters of other scripts (RFC 6531), at most 64 octets before the '@' and 254 in all
# (RFC 5321, section 4.5.3.1). Quoted local parts and address literals are refused; only a mail proves more.
_LOCAL = r"[\w!#$%&'*+/=?^`{|}~-]+"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"

EmailAddress = Annotated[
    str,
    Constraint.matching(
        "an e-mail address, as in 'ada@example.org'",
        rf"(?=[^@]{{1,64}}@){_LOCAL}(?:\.{_LOCAL})*@{_LABEL}(?:\.{_LABEL})+",
        longest=254,
    ),
]
"""An e-mail address, as the person wrote it; compare addresses only after folding their case."""

PhoneNumber = Annotated[
    str,
    Constraint.matching(
        "a phone number in E.164 form: '+', then 7 to 15 digits without separators, as in '+41441234567'",
        r"\+[1-9][0-9]{6,14}",
        longest=16,
    ),
]
"""A phone number in the international form of ITU-T E.164."""

# Well-formed by RFC 5646, section 2.1. Whether its subtags are registered is not checked: the registry
# grows. The irregular grandfathered tags ('i-klingon') are left out; each has a regular successor.
_TAG = (
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})"  # language, with extended language subtags
    r"(?:-[a-z]{4})?"  # script
    r"(?:-(?:[a-z]{2}|[0-9]{3}))?"  # region
    r"(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"  # variants
    r"(?:-[0-9a-wyz](?:-[a-z0-9]{2,8})+)*"  # extensions
    r"(?:-x(?:-[a-z0-9]{1,8})+)?"  # private use
)

LanguageTag = Annotated[
    str,
    Constraint.matching(
        "a BCP 47 language tag with hyphens, as in 'de-CH'",
        _TAG,
        longest=100,
        flags=re.IGNORECASE | re.ASCII,
    ),
]
"""The language and region a person wants to be addressed in."""

# No control characters or line separators, no lone surrogates (they have no UTF-8), no blanks around it.
PersonName = Annotated[
    str,
    Constraint.matching(
        "a text of 1 to 200 characters on one line, without control characters or surrounding blanks",
        r"(?!\s)[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+(?<!\s)",
        longest=200,
    ),
]
"""A name or a part of one, in any script. Nothing else is known about names."""

Note = Annotated[
    str,
    Constraint.matching(
        "a text of at most 2,000 characters without lone surrogates",
        r"[^\ud800-\udfff]*",
        longest=2000,
    ),
]
"""Free text. It may say anything about anybody, so contracts mark it as personal."""


class RegistrationMethod(enum.StrEnum):
    """The origin of an account."""

    PASSWORD = "password"
    SINGLE_SIGN_ON = "single_sign_on"
    INVITATION = "invitation"
    IMPORT = "import"


class SuspensionReason(enum.StrEnum):
    """Why an account was suspended."""

    ADMINISTRATIVE = "administrative"
    SECURITY = "security"
    ABUSE = "abuse"
    NON_PAYMENT = "non_payment"
    INACTIVITY = "inactivity"


class PasswordChangeMethod(enum.StrEnum):
    """The way in which a password was changed."""

    SELF_SERVICE = "self_service"
    """Signed in, with the old password."""

    RESET_LINK = "reset_link"
    """With a link sent to a verified address."""

    ADMINISTRATOR = "administrator"


class UserDeletionReason(enum.StrEnum):
    """Why an account was deleted."""

    ERASURE_REQUEST = "erasure_request"
    """The person asked for it (GDPR, article 17): subscribers erase what they hold about the person."""

    RETENTION_EXPIRED = "retention_expired"
    ADMINISTRATIVE = "administrative"


class ContactChannel(enum.StrEnum):
    """By what a contact can be reached."""

    EMAIL = "email"
    PHONE = "phone"


class ContactDeletionReason(enum.StrEnum):
    """Why a contact was deleted."""

    ERASURE_REQUEST = "erasure_request"
    """The person asked for it (GDPR, article 17): subscribers erase what they hold about the person."""

    DUPLICATE = "duplicate"
    OBSOLETE = "obsolete"
