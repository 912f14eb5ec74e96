"""Customers: everybody who registers becomes one, and some leave."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any
from uuid import UUID, uuid5

from crm.customer.reference import ReferenceData
from crm.journal import JournaledBus
from crm.shelf import MemoryShelf, Shelf
from promenade_customer import (
    CUSTOMER_CHURNED,
    CUSTOMER_CREATED,
    CUSTOMER_REACTIVATED,
    CUSTOMER_REASSIGNED,
    CUSTOMER_UPDATED,
    ChurnReason,
    CustomerChurned,
    CustomerCreated,
    CustomerReactivated,
    CustomerReassigned,
    CustomerSource,
    CustomerUpdated,
)
from promenade_identity import (
    CONTACT_UPDATED,
    ContactUpdated,
    UserDeleted,
    UserPasswordChanged,
    UserRegistered,
    UserSuspended,
)

__all__ = ["Customers", "customer_id", "first_word", "visible_name"]

_CUSTOMERS = UUID("2f6f1f0e-8a53-5d0c-9a0e-6b1d1c1a7c11")
_OWNERS = tuple(uuid5(_CUSTOMERS, f"owner {number}") for number in range(12))

# What customers of a country usually want to pay in; everybody else is asked to pay in euros.
_USUAL_CURRENCY = {
    **{"GB": "GBP", "US": "USD", "CH": "CHF", "MX": "MXN", "BR": "BRL", "PL": "PLN", "CZ": "CZK"},
    **{"TR": "TRY", "IS": "ISK", "UA": "UAH", "EG": "EGP", "IL": "ILS", "IN": "INR", "TH": "THB"},
    **{"VN": "VND", "JP": "JPY", "CN": "CNY", "KR": "KRW", "KE": "KES"},
}


def customer_id(user_id: UUID) -> UUID:
    """The id of the customer that a user becomes: the same however often the event is handled."""
    return uuid5(_CUSTOMERS, str(user_id))


def first_word(name: str) -> str:
    """Addresses a customer. This one has a bug: a name may have no visible word."""
    visible = "".join(letter for letter in name if letter.isprintable())
    return visible.split()[0]


def visible_name(name: str) -> str:
    """Addresses a customer, also one with an invisible name."""
    words = "".join(letter for letter in name if letter.isprintable()).split()
    return words[0] if words else "customer"


class Customers:
    """Follows the accounts of ``identity``, each in the order of its events."""

    def __init__(
        self, bus: JournaledBus, reference: ReferenceData, *, seed: int, shelf: Shelf | None = None
    ) -> None:
        self._bus = bus
        self._reference = reference
        self._seed = seed
        shelf = shelf or MemoryShelf()
        self._open = shelf.table("open customers")
        self.salutations = shelf.table("salutations")
        self.salutation_of: Callable[[str], str] = first_word
        bus.subscribe("identity.user.*", self.follow, name="customer.accounts", ordered=True)
        bus.subscribe(CONTACT_UPDATED, self.update, name="customer.master-data")

    async def follow(self, event: Any) -> None:
        """Takes over one event of a user."""
        match event:
            case UserRegistered():
                await self._welcome(event)
            case UserSuspended() if event.aggregate_id in self._open:
                await self._hand_over(event)
            case UserDeleted() if event.aggregate_id in self._open:
                await self._let_go(event)
            case UserPasswordChanged() if event.aggregate_id in self._open:
                await self._maybe_back(event)
            case _:
                pass  # nothing changes for a customer

    async def update(self, event: ContactUpdated) -> None:
        """Keeps the master data of the person's customer up to date."""
        if event.user_id is None:
            return
        country = self._reference.country_of(event.language or "")
        updated = CustomerUpdated(
            aggregate_id=customer_id(event.user_id),
            name=event.full_name,
            user_id=event.user_id,
            contact_id=event.aggregate_id,
            country=country,
            currency=self._currency_of(country),
            language=self._reference.language_of(event.language or ""),
            timezone=self._reference.timezone_of(country),
        )
        await self._bus.publish(CUSTOMER_UPDATED, updated)

    async def _welcome(self, event: UserRegistered) -> None:
        name, locale = event.display_name or event.email, event.locale or ""
        self.salutations[customer_id(event.aggregate_id)] = self.salutation_of(name)
        country = self._reference.country_of(locale)
        created = CustomerCreated(
            aggregate_id=customer_id(event.aggregate_id),
            name=name,
            source=CustomerSource.REGISTRATION,
            user_id=event.aggregate_id,
            owner_id=self._random(event.aggregate_id).choice(_OWNERS),
            country=country,
            currency=self._currency_of(country),
            language=self._reference.language_of(locale),
            timezone=self._reference.timezone_of(country),
        )
        self._open[event.aggregate_id] = True
        await self._bus.publish(CUSTOMER_CREATED, created)

    async def _hand_over(self, event: UserSuspended) -> None:
        """A suspended account is looked after by somebody experienced."""
        owner = self._random(event.aggregate_id).choice(_OWNERS)
        handed_over = CustomerReassigned(
            aggregate_id=customer_id(event.aggregate_id),
            from_owner_id=owner,
            to_owner_id=_OWNERS[(_OWNERS.index(owner) + 1) % len(_OWNERS)],
        )
        await self._bus.publish(CUSTOMER_REASSIGNED, handed_over)

    async def _let_go(self, event: UserDeleted) -> None:
        self._open.pop(event.aggregate_id, None)
        left = CustomerChurned(aggregate_id=customer_id(event.aggregate_id), reason=ChurnReason.OTHER)
        await self._bus.publish(CUSTOMER_CHURNED, left)

    async def _maybe_back(self, event: UserPasswordChanged) -> None:
        """Somebody who needed a new password may have been away for long."""
        if self._random(event.aggregate_id).random() < 0.2:
            back = CustomerReactivated(aggregate_id=customer_id(event.aggregate_id))
            await self._bus.publish(CUSTOMER_REACTIVATED, back)

    def _currency_of(self, country: str | None) -> str:
        return _USUAL_CURRENCY.get(country or "", "EUR")

    def _random(self, user_id: UUID) -> Random:
        return Random(f"customer {self._seed} {user_id}")
