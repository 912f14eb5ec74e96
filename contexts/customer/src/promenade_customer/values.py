"""The value types of customers, companies, deals and interactions."""

from __future__ import annotations

import enum
from typing import Annotated

import attrs

from bus_core import Constraint
from promenade_shared import CountryCode, Money, Name
from promenade_shared.values import fits, satisfies

__all__ = [
    "ChurnReason",
    "CompanyDeactivationReason",
    "CustomerSource",
    "CustomerStatus",
    "CustomerTier",
    "DealStage",
    "DealValue",
    "InteractionChannel",
    "InteractionDirection",
    "LossReason",
    "Note",
    "Percent",
    "PostalAddress",
    "Seconds",
]


Note = Annotated[
    str,
    Constraint.matching(
        "a text of at most 2,000 characters without lone surrogates", r"[^\ud800-\udfff]{0,2000}"
    ),
]
"""Free text. It may say anything about anybody, so contracts mark it as personal."""

Percent = Annotated[int, Constraint("a whole number from 0 to 100", lambda number: 0 <= number <= 100)]
"""A share or a score in whole percent."""

Seconds = Annotated[int, Constraint("a whole number of seconds, 0 or more", lambda number: number >= 0)]
"""A duration in whole seconds."""

DealValue = Annotated[Money, Constraint("a Money of 0 or more", lambda money: money.amount_minor >= 0)]
"""The value of a deal. Credits and refunds are no deals."""

_PostalCode = Annotated[
    str,
    Constraint.matching(
        "a postal code of 2 to 12 capital letters, digits, blanks and '-'",
        "[A-Z0-9][A-Z0-9 -]{0,10}[A-Z0-9]",
    ),
]

_AddressLines = Annotated[
    tuple[Name, ...],
    Constraint(
        "one to four texts of 1 to 200 characters each",
        lambda lines: 1 <= len(lines) <= 4 and all(fits(Name, line) for line in lines),
    ),
]


@attrs.frozen(kw_only=True)
class PostalAddress:
    """Where a letter arrives. Only the country is shown in its repr. Raises ``ValueError``."""

    lines: tuple[Name, ...] = attrs.field(repr=False, validator=satisfies(_AddressLines))
    """One to four lines above the postal code and locality, as they are printed."""

    locality: Name = attrs.field(repr=False, validator=satisfies(Name))
    """City, town or village."""

    postal_code: str | None = attrs.field(
        default=None, repr=False, validator=attrs.validators.optional(satisfies(_PostalCode))
    )
    """None where the country has none."""

    region: Name | None = attrs.field(
        default=None, repr=False, validator=attrs.validators.optional(satisfies(Name))
    )
    """State, canton or province, where letters carry it."""

    country: CountryCode = attrs.field(validator=satisfies(CountryCode))
    """ISO 3166-1 alpha-2."""


class CustomerStatus(enum.StrEnum):
    """Where a customer stands in their life with us; the events tell every transition.

    ``created`` starts one (as a lead unless it says otherwise), then ``qualified``, ``converted``,
    ``churned``, and ``reactivated`` back to active.
    """

    LEAD = "lead"
    QUALIFIED = "qualified"
    ACTIVE = "active"
    CHURNED = "churned"


class CustomerTier(enum.StrEnum):
    """The service level of a customer, from the lowest to the highest."""

    STANDARD = "standard"
    SILVER = "silver"
    GOLD = "gold"
    PLATINUM = "platinum"


class CustomerSource(enum.StrEnum):
    """The source of a customer."""

    REGISTRATION = "registration"
    """They registered an account."""

    WEB_FORM = "web_form"
    REFERRAL = "referral"
    CAMPAIGN = "campaign"
    PARTNER = "partner"
    EVENT = "event"
    OUTBOUND = "outbound"
    IMPORT = "import"
    OTHER = "other"


class ChurnReason(enum.StrEnum):
    """Why a customer left."""

    PRICE = "price"
    COMPETITOR = "competitor"
    SERVICE = "service"
    MISSING_FEATURE = "missing_feature"
    NON_PAYMENT = "non_payment"
    INACTIVITY = "inactivity"
    CLOSED_BUSINESS = "closed_business"
    OTHER = "other"


class CompanyDeactivationReason(enum.StrEnum):
    """Why a company is no longer worked with."""

    DISSOLVED = "dissolved"
    MERGED = "merged"
    DUPLICATE = "duplicate"
    SANCTIONED = "sanctioned"
    INACTIVE = "inactive"
    OTHER = "other"


class DealStage(enum.StrEnum):
    """The stages of an open deal, in their usual order. Won and lost are no stages: they end the deal."""

    PROSPECTING = "prospecting"
    QUALIFICATION = "qualification"
    PROPOSAL = "proposal"
    NEGOTIATION = "negotiation"


class LossReason(enum.StrEnum):
    """Why a deal was lost."""

    PRICE = "price"
    COMPETITOR = "competitor"
    NO_BUDGET = "no_budget"
    NO_DECISION = "no_decision"
    MISSING_FEATURE = "missing_feature"
    TIMING = "timing"
    UNREACHABLE = "unreachable"
    OTHER = "other"


class InteractionChannel(enum.StrEnum):
    """By what means an interaction took place."""

    EMAIL = "email"
    PHONE = "phone"
    VIDEO_CALL = "video_call"
    MEETING = "meeting"
    CHAT = "chat"
    SMS = "sms"
    LETTER = "letter"
    WEB_FORM = "web_form"
    SOCIAL_MEDIA = "social_media"


class InteractionDirection(enum.StrEnum):
    """The side that began an interaction."""

    INBOUND = "inbound"
    """The customer."""

    OUTBOUND = "outbound"
    """We did."""
