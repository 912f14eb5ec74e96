"""An example of every event, in the order of the catalogue, for tests of those who subscribe."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import UUID

from bus_core import Event
from promenade_customer.events import (
    CompanyActivated,
    CompanyCreated,
    CompanyDeactivated,
    CustomerChurned,
    CustomerConverted,
    CustomerCreated,
    CustomerQualified,
    CustomerReactivated,
    CustomerReassigned,
    CustomerTierChanged,
    CustomerUpdated,
    DealCreated,
    DealLost,
    DealStageChanged,
    DealWon,
    InteractionLogged,
)
from promenade_customer.values import (
    ChurnReason,
    CompanyDeactivationReason,
    CustomerSource,
    CustomerStatus,
    CustomerTier,
    DealStage,
    InteractionChannel,
    InteractionDirection,
    LossReason,
    PostalAddress,
)
from promenade_shared import Money

__all__ = ["EXAMPLES"]

_CUSTOMER = UUID("0191d4c0-0000-7000-8000-000000000011")
_COMPANY = UUID("0191d4c0-0000-7000-8000-000000000012")
_OTHER_COMPANY = UUID("0191d4c0-0000-7000-8000-000000000013")
_DEAL = UUID("0191d4c0-0000-7000-8000-000000000014")
_INTERACTION = UUID("0191d4c0-0000-7000-8000-000000000015")
_USER = UUID("0191d4c0-0000-7000-8000-000000000016")
_CONTACT = UUID("0191d4c0-0000-7000-8000-000000000017")
_OWNER = UUID("0191d4c0-0000-7000-8000-000000000018")
_OTHER_OWNER = UUID("0191d4c0-0000-7000-8000-000000000019")

_VALUE = Money(amount_minor=1_250_000, currency="CHF")

EXAMPLES: tuple[Event, ...] = (
    CustomerCreated(
        aggregate_id=_CUSTOMER,
        name="Ada Lovelace",
        status=CustomerStatus.LEAD,
        tier=CustomerTier.STANDARD,
        source=CustomerSource.REGISTRATION,
        user_id=_USER,
        contact_id=_CONTACT,
        company_id=_COMPANY,
        owner_id=_OWNER,
        country="CH",
        currency="CHF",
        language="deu",
        timezone="Europe/Zurich",
    ),
    CustomerUpdated(
        aggregate_id=_CUSTOMER,
        name="Ada King",
        user_id=_USER,
        contact_id=_CONTACT,
        company_id=_COMPANY,
        country="GB",
        currency="GBP",
        language="eng",
        timezone="Europe/London",
    ),
    CustomerQualified(
        aggregate_id=_CUSTOMER, score=80, qualified_by=_OWNER, note="Has a budget and a deadline."
    ),
    CustomerConverted(aggregate_id=_CUSTOMER, deal_id=_DEAL, value=_VALUE),
    CustomerChurned(
        aggregate_id=_CUSTOMER,
        reason=ChurnReason.PRICE,
        last_active_on=date(2025, 6, 30),
        note="Found a cheaper offer.",
    ),
    CustomerReactivated(
        aggregate_id=_CUSTOMER, churned_at=datetime(2025, 7, 1, 8, 30, tzinfo=UTC), deal_id=_DEAL
    ),
    CustomerTierChanged(
        aggregate_id=_CUSTOMER,
        from_tier=CustomerTier.SILVER,
        to_tier=CustomerTier.GOLD,
        changed_by=_OWNER,
    ),
    CustomerReassigned(
        aggregate_id=_CUSTOMER, from_owner_id=_OWNER, to_owner_id=_OTHER_OWNER, reassigned_by=_OWNER
    ),
    CompanyCreated(
        aggregate_id=_COMPANY,
        legal_name="Analytical Engines AG",
        country="CH",
        registration_number="CHE-123.456.789",
        registered_address=PostalAddress(
            lines=("Bahnhofstrasse 1",), locality="Zürich", postal_code="8001", region="ZH", country="CH"
        ),
        parent_id=_OTHER_COMPANY,
    ),
    CompanyActivated(aggregate_id=_COMPANY, activated_by=_OWNER),
    CompanyDeactivated(
        aggregate_id=_COMPANY,
        reason=CompanyDeactivationReason.MERGED,
        successor_id=_OTHER_COMPANY,
        deactivated_by=_OWNER,
    ),
    DealCreated(
        aggregate_id=_DEAL,
        customer_id=_CUSTOMER,
        title="Difference engine, second edition",
        value=_VALUE,
        stage=DealStage.PROSPECTING,
        probability=20,
        expected_close_on=date(2030, 3, 31),
        owner_id=_OWNER,
    ),
    DealStageChanged(
        aggregate_id=_DEAL,
        customer_id=_CUSTOMER,
        from_stage=DealStage.PROPOSAL,
        to_stage=DealStage.NEGOTIATION,
        probability=70,
        changed_by=_OWNER,
    ),
    DealWon(aggregate_id=_DEAL, customer_id=_CUSTOMER, value=_VALUE, won_by=_OWNER),
    DealLost(
        aggregate_id=_DEAL,
        customer_id=_CUSTOMER,
        reason=LossReason.NO_DECISION,
        value=_VALUE,
        note="Will think about it next year.",
    ),
    InteractionLogged(
        aggregate_id=_INTERACTION,
        customer_id=_CUSTOMER,
        channel=InteractionChannel.VIDEO_CALL,
        direction=InteractionDirection.OUTBOUND,
        started_at=datetime(2025, 5, 12, 9, 0, tzinfo=UTC),
        duration_seconds=1800,
        contact_id=_CONTACT,
        deal_id=_DEAL,
        logged_by=_OWNER,
        summary="Walked through the proposal.",
    ),
)
