from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_core import InvalidEvent
from promenade_customer import (
    CompanyCreated,
    CompanyDeactivated,
    CustomerChurned,
    CustomerConverted,
    CustomerCreated,
    CustomerQualified,
    CustomerReactivated,
    CustomerReassigned,
    CustomerStatus,
    CustomerTier,
    CustomerTierChanged,
    DealCreated,
    DealLost,
    DealStage,
    DealStageChanged,
    DealWon,
    InteractionLogged,
)
from promenade_customer.examples import EXAMPLES
from promenade_shared import Money

BY_CLASS: dict[type, Any] = {type(example): example for example in EXAMPLES}


def test_smallest_customer() -> None:
    """A customer needs a name and nothing else, and starts as a lead of the lowest tier."""
    event = CustomerCreated(aggregate_id=uuid4(), name="Ada Lovelace")
    assert event.status is CustomerStatus.LEAD
    assert event.tier is CustomerTier.STANDARD


@pytest.mark.parametrize(
    ("event_class", "field", "value", "wanted"),
    [
        (CustomerCreated, "name", "", "a text of 1 to 200 characters"),
        (CustomerCreated, "status", "lead", "one of CustomerStatus.LEAD"),
        (CustomerCreated, "tier", "gold", "one of CustomerTier.STANDARD"),
        (CustomerCreated, "country", "che", "an ISO 3166-1 alpha-2 code"),
        (CustomerCreated, "currency", "SFr", "an ISO 4217 code"),
        (CustomerCreated, "language", "de", "an ISO 639-3 code"),
        (CustomerCreated, "timezone", "GMT+2:00", "an IANA time zone name"),
        (CustomerCreated, "user_id", "ada", "a UUID"),
        (CustomerQualified, "score", 101, "a whole number from 0 to 100"),
        (CustomerQualified, "score", 50.5, "an int"),
        (CustomerQualified, "note", "x" * 2001, "a text of at most 2,000 characters"),
        (CustomerConverted, "value", 12.5, "a Money"),
        (CustomerConverted, "value", Money(-1, "CHF"), "a Money of 0 or more"),
        (CustomerChurned, "reason", "price", "one of ChurnReason.PRICE"),
        (CustomerChurned, "last_active_on", datetime(2025, 1, 1, tzinfo=UTC), "a date"),
        (CustomerReactivated, "churned_at", datetime(2999, 1, 1, tzinfo=UTC), "before occurred_at"),
        (CustomerReactivated, "churned_at", datetime(1999, 1, 1), "an aware datetime"),
        (CustomerTierChanged, "to_tier", CustomerTier.SILVER, "another tier than from_tier"),
        (CustomerTierChanged, "from_tier", "silver", "one of CustomerTier.STANDARD"),
        (CompanyCreated, "country", "Schweiz", "an ISO 3166-1 alpha-2 code"),
        (CompanyCreated, "registered_address", "Bahnhofstrasse 1", "a PostalAddress"),
        (CompanyDeactivated, "reason", None, "one of CompanyDeactivationReason"),
        (DealCreated, "value", Money(-1, "CHF"), "a Money of 0 or more"),
        (DealCreated, "value", (100, "CHF"), "a Money"),
        (DealCreated, "stage", "won", "one of DealStage.PROSPECTING"),
        (DealCreated, "probability", -1, "a whole number from 0 to 100"),
        (DealCreated, "expected_close_on", "2030-01-01", "a date"),
        (DealStageChanged, "to_stage", DealStage.PROPOSAL, "another stage than from_stage"),
        (DealStageChanged, "customer_id", None, "a UUID"),
        (DealWon, "value", None, "a Money"),
        (DealLost, "reason", "price", "one of LossReason.PRICE"),
        (InteractionLogged, "channel", "phone", "one of InteractionChannel.EMAIL"),
        (InteractionLogged, "direction", "inbound", "one of InteractionDirection.INBOUND"),
        (InteractionLogged, "duration_seconds", -1, "a whole number of seconds"),
        (InteractionLogged, "started_at", "yesterday", "a datetime"),
    ],
)
def test_bad_value(event_class: type, field: str, value: object, wanted: str) -> None:
    """A bad value is refused when the event is made; the error names the field and what it must be."""
    with pytest.raises(InvalidEvent) as caught:
        attrs.evolve(BY_CLASS[event_class], **{field: value})
    assert f"{field} must be" in str(caught.value)
    assert wanted in str(caught.value)
    assert event_class.__name__ in str(caught.value)


@given(st.sampled_from(DealStage), st.sampled_from(DealStage))
def test_deal_moves_to_any_other_stage(before: DealStage, after: DealStage) -> None:
    """A deal moves forward or back to any other stage, and never to the one it is in."""
    move = {"aggregate_id": uuid4(), "customer_id": uuid4(), "from_stage": before, "to_stage": after}
    if before is after:
        with pytest.raises(InvalidEvent, match="to_stage must be another stage than from_stage"):
            DealStageChanged(**move)
    else:
        assert DealStageChanged(**move).to_stage is after


def test_reassigned_to_the_same_owner() -> None:
    """A customer is reassigned to somebody else, or to nobody."""
    owner = uuid4()
    assert CustomerReassigned(aggregate_id=uuid4(), from_owner_id=owner, to_owner_id=None).to_owner_id is None
    with pytest.raises(InvalidEvent, match="to_owner_id must be another owner than from_owner_id"):
        CustomerReassigned(aggregate_id=uuid4(), from_owner_id=owner, to_owner_id=owner)
    with pytest.raises(InvalidEvent, match="to_owner_id must be another owner than from_owner_id"):
        CustomerReassigned(aggregate_id=uuid4(), to_owner_id=None)


def test_company_is_not_its_own_relative() -> None:
    """A company is neither its own parent nor its own successor."""
    created, deactivated = BY_CLASS[CompanyCreated], BY_CLASS[CompanyDeactivated]
    with pytest.raises(InvalidEvent, match="parent_id must be another company"):
        attrs.evolve(created, parent_id=created.aggregate_id)
    with pytest.raises(InvalidEvent, match="successor_id must be another company"):
        attrs.evolve(deactivated, successor_id=deactivated.aggregate_id)


def test_interaction_is_recorded_afterwards() -> None:
    """An interaction cannot be recorded before it takes place."""
    with pytest.raises(InvalidEvent, match="started_at must not be after occurred_at"):
        attrs.evolve(BY_CLASS[InteractionLogged], started_at=datetime(2999, 1, 1, tzinfo=UTC))
