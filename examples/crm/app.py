"""Puts the application together: one bus, and the contexts that know nothing of each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from bus_core import Bus, open_bus
from crm.audit import AuditTrail
from crm.customer import Customers, DealPipeline, ReferenceData, Sales
from crm.identity import MailGateway, Registration, WelcomeMail
from crm.journal import Journal, JournaledBus
from crm.shared import ReferenceDataPublisher
from crm.shelf import MemoryShelf, Shelf

__all__ = ["Application", "build", "default_config", "make_bus"]


@attrs.frozen
class Application:
    """The bus, which is not started yet, and what the contexts offer to the outside."""

    bus: Bus
    journal: Journal
    reference_data_publisher: ReferenceDataPublisher
    registration: Registration
    mail_gateway: MailGateway
    reference_data: ReferenceData
    customers: Customers
    sales: Sales
    pipeline: DealPipeline
    audit: AuditTrail


def default_config() -> Path:
    """``CRM_CONFIG``, or the configuration of the demo, which is in memory."""
    chosen = os.environ.get("CRM_CONFIG")
    return Path(chosen) if chosen else Path(__file__).with_name("app.yaml")


def build(
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    seed: int = 1,
    plugins: Iterable[object] = (),
    shelf: Shelf | None = None,
    journaled_by: Callable[[Bus, Journal], JournaledBus] = JournaledBus,
) -> Application:
    """Opens the bus and lets every context subscribe; see ``bus_core.open_bus`` for errors.

    ``shelf`` is where the contexts remember things: processes that share the work share a shelf.
    """
    bus = open_bus(default_config() if config is None else config, plugins=plugins)
    journal = Journal()
    journaled = journaled_by(bus, journal)
    shelf = shelf or MemoryShelf()
    gateway = MailGateway(seed=seed, shelf=shelf)
    WelcomeMail(journaled, gateway)
    reference = ReferenceData(shelf)
    reference.follow(journaled)
    return Application(
        bus=bus,
        journal=journal,
        reference_data_publisher=ReferenceDataPublisher(journaled),
        registration=Registration(journaled),
        mail_gateway=gateway,
        reference_data=reference,
        customers=Customers(journaled, reference, seed=seed, shelf=shelf),
        sales=Sales(journaled, reference, seed=seed),
        pipeline=DealPipeline(journaled, seed=seed, shelf=shelf),
        audit=AuditTrail(journaled),
    )


def make_bus() -> Bus:
    """The bus of the application, for ``promenade-bus run|explain|health --app crm.app:make_bus``."""
    return build().bus
