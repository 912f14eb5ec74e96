"""Events of customers, companies, deals and interactions.

``aggregate_id`` is the id of the customer, company, deal or interaction. Ids named ``owner_id`` or
``..._by`` are ids of users of the identity context; None means nobody in particular or the system itself.
How people are reached is not told here: that belongs to the contacts of the identity context.
"""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from bus_core import Event, InvalidEvent, Personal, event
from promenade_customer.values import (
    ChurnReason,
    CompanyDeactivationReason,
    CustomerSource,
    CustomerStatus,
    CustomerTier,
    DealStage,
    DealValue,
    InteractionChannel,
    InteractionDirection,
    LossReason,
    Note,
    Percent,
    PostalAddress,
    Seconds,
)
from promenade_shared import CountryCode, CurrencyCode, LanguageCode, Name, TimezoneName

__all__ = [
    "CompanyActivated",
    "CompanyCreated",
    "CompanyDeactivated",
    "CustomerChurned",
    "CustomerConverted",
    "CustomerCreated",
    "CustomerQualified",
    "CustomerReactivated",
    "CustomerReassigned",
    "CustomerTierChanged",
    "CustomerUpdated",
    "DealCreated",
    "DealLost",
    "DealStageChanged",
    "DealWon",
    "InteractionLogged",
]


# --- customers --------------------------------------------------------------------------------------------


@event
class CustomerCreated(Event):
    """A person or a company is now kept as a customer."""

    name: Personal[Name]

    status: CustomerStatus = CustomerStatus.LEAD
    """Where the customer starts; imported ones may be further on."""

    tier: CustomerTier = CustomerTier.STANDARD
    source: CustomerSource = CustomerSource.OTHER

    user_id: UUID | None = None
    """The account of the customer (identity.user), if there is one."""

    contact_id: UUID | None = None
    """The contact of the customer (identity.contact), if it is known."""

    company_id: UUID | None = None
    """The company the customer is or belongs to (customer.company)."""

    owner_id: UUID | None = None
    """The user who looks after the customer."""

    country: CountryCode | None = None
    """ISO 3166-1 alpha-2."""

    currency: CurrencyCode | None = None
    """ISO 4217; the currency the customer prefers to pay in."""

    language: LanguageCode | None = None
    """ISO 639-3; the language the customer prefers to be written to in."""

    timezone: TimezoneName | None = None
    """IANA; when the customer can be called."""


@event
class CustomerUpdated(Event):
    """The master data of a customer changed; the event carries all of it.

    Status, tier and owner are not master data: their changes have events of their own.
    """

    name: Personal[Name]

    user_id: UUID | None = None
    """The account of the customer (identity.user), if there is one."""

    contact_id: UUID | None = None
    """The contact of the customer (identity.contact), if it is known."""

    company_id: UUID | None = None
    """The company the customer is or belongs to (customer.company)."""

    country: CountryCode | None = None
    """ISO 3166-1 alpha-2."""

    currency: CurrencyCode | None = None
    """ISO 4217; the currency the customer prefers to pay in."""

    language: LanguageCode | None = None
    """ISO 639-3; the language the customer prefers to be written to in."""

    timezone: TimezoneName | None = None
    """IANA; when the customer can be called."""


@event
class CustomerQualified(Event):
    """A lead was found worth pursuing."""

    score: Percent | None = None
    """The score of the lead in percent; None without a score."""

    qualified_by: UUID | None = None

    note: Personal[Note] = ""
    """Why."""


@event
class CustomerConverted(Event):
    """A lead became a paying customer."""

    deal_id: UUID | None = None
    """The deal that made them one (customer.deal), if there was one."""

    value: DealValue | None = None
    """The value of the first purchase."""


@event
class CustomerChurned(Event):
    """A paying customer left."""

    reason: ChurnReason

    last_active_on: date | None = None
    """The last day on which the customer used or bought something."""

    note: Personal[Note] = ""
    """The reason that the customer gave."""


@event
class CustomerReactivated(Event):
    """A customer who had left came back."""

    churned_at: datetime | None = None
    """When the customer had left, before ``occurred_at``."""

    deal_id: UUID | None = None
    """The deal that brought them back (customer.deal), if there was one."""

    def __attrs_post_init__(self) -> None:
        if self.churned_at is not None and self.churned_at >= self.occurred_at:
            raise InvalidEvent("CustomerReactivated", ["churned_at must be before occurred_at"])


@event(type="customer.tier_changed")
class CustomerTierChanged(Event):
    """A customer moved to another service level."""

    from_tier: CustomerTier
    to_tier: CustomerTier
    changed_by: UUID | None = None

    def __attrs_post_init__(self) -> None:
        if self.from_tier is self.to_tier:
            raise InvalidEvent(
                "CustomerTierChanged", [f"to_tier must be another tier than from_tier, got {self.to_tier!r}"]
            )


@event
class CustomerReassigned(Event):
    """Somebody else looks after a customer from now on."""

    to_owner_id: UUID | None
    """The user who looks after the customer now; None without one."""

    from_owner_id: UUID | None = None
    """The user before; None without one."""

    reassigned_by: UUID | None = None

    def __attrs_post_init__(self) -> None:
        if self.from_owner_id == self.to_owner_id:
            raise InvalidEvent("CustomerReassigned", ["to_owner_id must be another owner than from_owner_id"])


# --- companies --------------------------------------------------------------------------------------------


@event
class CompanyCreated(Event):
    """A company became known; it is not worked with until it is activated."""

    # The name, the number and the address of a sole trader are those of a person.
    legal_name: Personal[Name]
    """As registered, with its legal form."""

    country: CountryCode
    """ISO 3166-1 alpha-2; where it is registered."""

    registration_number: Personal[Name] | None = None
    """In the commercial register of that country."""

    registered_address: Personal[PostalAddress] | None = None

    parent_id: UUID | None = None
    """The company that owns it (customer.company), if it is a subsidiary."""

    def __attrs_post_init__(self) -> None:
        if self.parent_id == self.aggregate_id:
            raise InvalidEvent("CompanyCreated", ["parent_id must be another company"])


@event
class CompanyActivated(Event):
    """A company can be worked with, for the first time or again."""

    activated_by: UUID | None = None


@event
class CompanyDeactivated(Event):
    """A company is no longer worked with; its history is kept."""

    reason: CompanyDeactivationReason

    successor_id: UUID | None = None
    """The company that takes its place (customer.company), after a merger or for a duplicate."""

    deactivated_by: UUID | None = None

    def __attrs_post_init__(self) -> None:
        if self.successor_id == self.aggregate_id:
            raise InvalidEvent("CompanyDeactivated", ["successor_id must be another company"])


# --- deals ------------------------------------------------------------------------------------------------


@event
class DealCreated(Event):
    """A chance to sell something to a customer was opened."""

    customer_id: UUID

    title: Personal[Name]
    """Its subject in a few words; free text."""

    value: DealValue
    """Its expected value."""

    stage: DealStage = DealStage.PROSPECTING

    probability: Percent | None = None
    """The chance to win it, in percent; None when nobody estimated it."""

    expected_close_on: date | None = None
    owner_id: UUID | None = None
    """The user who works on it."""


@event(type="deal.stage_changed")
class DealStageChanged(Event):
    """An open deal moved to another stage, forward or back."""

    customer_id: UUID
    from_stage: DealStage
    to_stage: DealStage

    probability: Percent | None = None
    """The chance to win it from now on, in percent; None when nobody estimated it."""

    changed_by: UUID | None = None

    def __attrs_post_init__(self) -> None:
        if self.from_stage is self.to_stage:
            raise InvalidEvent(
                "DealStageChanged", [f"to_stage must be another stage than from_stage, got {self.to_stage!r}"]
            )


@event
class DealWon(Event):
    """The customer accepted; the deal is closed."""

    customer_id: UUID

    value: DealValue
    """The agreed value."""

    won_by: UUID | None = None


@event
class DealLost(Event):
    """The customer refused, or the deal was given up; it is closed."""

    customer_id: UUID
    reason: LossReason

    value: DealValue | None = None
    """Its expected value."""

    note: Personal[Note] = ""
    """The reason that the customer gave."""


# --- interactions -----------------------------------------------------------------------------------------


@event
class InteractionLogged(Event):
    """A conversation with a customer was recorded, by whatever means it took place."""

    customer_id: UUID
    channel: InteractionChannel
    direction: InteractionDirection

    started_at: datetime
    """When it took place, not after ``occurred_at``, which is when it was recorded."""

    duration_seconds: Seconds | None = None
    """None for letters, mails and the like."""

    contact_id: UUID | None = None
    """The contact who took part (identity.contact), if known."""

    deal_id: UUID | None = None
    """The deal it was about (customer.deal), if any."""

    logged_by: UUID | None = None

    summary: Personal[Note] = ""
    """A note about the conversation; free text."""

    def __attrs_post_init__(self) -> None:
        if self.started_at > self.occurred_at:
            raise InvalidEvent("InteractionLogged", ["started_at must not be after occurred_at"])
