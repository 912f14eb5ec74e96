"""Sales: what is tried with a new customer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from bus_core import Event, Topic
from crm.customer.reference import ReferenceData, UnknownCurrency
from crm.journal import JournaledBus
from promenade_customer import (
    COMPANY_ACTIVATED,
    COMPANY_CREATED,
    COMPANY_DEACTIVATED,
    CUSTOMER_CREATED,
    CUSTOMER_QUALIFIED,
    DEAL_CREATED,
    INTERACTION_LOGGED,
    CompanyActivated,
    CompanyCreated,
    CompanyDeactivated,
    CompanyDeactivationReason,
    CustomerCreated,
    CustomerQualified,
    DealCreated,
    InteractionChannel,
    InteractionDirection,
    InteractionLogged,
)
from promenade_shared import Money

__all__ = ["Sales"]

FollowUp = tuple[Topic[Any], Event]

# Now and then a customer asks for a currency that is none: bitcoin has no ISO 4217 code, XTS is for tests.
_ODD_WISHES = ("XBT", "XTS", "BTC")
_SUBJECTS = ("Consulting", "Licences", "Maintenance", "Training", "Analytical engine")


class Sales:
    """Opens companies and deals for new customers, and talks to them."""

    def __init__(self, bus: JournaledBus, reference: ReferenceData, *, seed: int) -> None:
        self._bus = bus
        self._reference = reference
        self._seed = seed
        self.refused_currencies: Counter[str] = Counter()
        bus.subscribe(CUSTOMER_CREATED, self.approach, name="customer.sales")

    async def approach(self, event: CustomerCreated) -> None:
        """Does everything that follows from a new customer."""
        await self._bus.publish_many(self._follow_up(event))

    def _follow_up(self, event: CustomerCreated) -> Iterator[FollowUp]:
        random = Random(f"sales {self._seed} {event.aggregate_id}")
        if random.random() < 0.2:
            yield from self._open_company(event, random)
        yield self._talk(event, random, InteractionDirection.INBOUND)
        if random.random() < 0.65:
            score = random.randrange(40, 101)
            qualified = CustomerQualified(
                aggregate_id=event.aggregate_id, score=score, qualified_by=event.owner_id
            )
            yield CUSTOMER_QUALIFIED, qualified
            for _ in range(1 + (random.random() < 0.25)):
                yield from self._open_deal(event, random)

    def _open_company(self, event: CustomerCreated, random: Random) -> Iterator[FollowUp]:
        company = _new_id(random)
        created = CompanyCreated(
            aggregate_id=company,
            legal_name=f"{random.choice(_SUBJECTS)} {random.randrange(1, 1000)} Ltd",
            country=event.country or "GB",
        )
        yield COMPANY_CREATED, created
        yield COMPANY_ACTIVATED, CompanyActivated(aggregate_id=company)
        if random.random() < 0.1:
            gone = CompanyDeactivated(aggregate_id=company, reason=CompanyDeactivationReason.DISSOLVED)
            yield COMPANY_DEACTIVATED, gone

    def _open_deal(self, event: CustomerCreated, random: Random) -> Iterator[FollowUp]:
        currency = event.currency or "EUR"
        if random.random() < 0.02:
            currency = random.choice(_ODD_WISHES)
        try:
            value = self._money(random.randrange(500, 100_000), currency)
        except UnknownCurrency:
            self.refused_currencies[currency] += 1
            yield self._talk(event, random, InteractionDirection.OUTBOUND)
            value = self._money(random.randrange(500, 100_000), "EUR")
        deal = DealCreated(
            aggregate_id=_new_id(random),
            customer_id=event.aggregate_id,
            title=random.choice(_SUBJECTS),
            value=value,
            probability=random.randrange(5, 50, 5),
            expected_close_on=(datetime.now(UTC) + timedelta(days=random.randrange(10, 200))).date(),
            owner_id=event.owner_id,
        )
        yield DEAL_CREATED, deal

    def _money(self, amount: int, currency: str) -> Money:
        """A whole amount; raises ``UnknownCurrency``."""
        return Money(amount_minor=amount * 10 ** self._reference.minor_units(currency), currency=currency)

    def _talk(self, event: CustomerCreated, random: Random, direction: InteractionDirection) -> FollowUp:
        seconds = random.randrange(60, 3600)
        talk = InteractionLogged(
            aggregate_id=_new_id(random),
            customer_id=event.aggregate_id,
            channel=random.choice(tuple(InteractionChannel)),
            direction=direction,
            started_at=datetime.now(UTC) - timedelta(seconds=seconds),
            duration_seconds=seconds,
            logged_by=event.owner_id,
        )
        return INTERACTION_LOGGED, talk


def _new_id(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128), version=4)
