"""The topics of customers, companies, deals and interactions."""

from __future__ import annotations

from bus_core import Topic, TopicCatalogue
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

__all__ = [
    "CATALOGUE",
    "COMPANY_ACTIVATED",
    "COMPANY_CREATED",
    "COMPANY_DEACTIVATED",
    "CUSTOMER_CHURNED",
    "CUSTOMER_CONVERTED",
    "CUSTOMER_CREATED",
    "CUSTOMER_QUALIFIED",
    "CUSTOMER_REACTIVATED",
    "CUSTOMER_REASSIGNED",
    "CUSTOMER_TIER_CHANGED",
    "CUSTOMER_UPDATED",
    "DEAL_CREATED",
    "DEAL_LOST",
    "DEAL_STAGE_CHANGED",
    "DEAL_WON",
    "INTERACTION_LOGGED",
]

CUSTOMER_CREATED = Topic("customer.customer.created", CustomerCreated)
CUSTOMER_UPDATED = Topic("customer.customer.updated", CustomerUpdated)
CUSTOMER_QUALIFIED = Topic("customer.customer.qualified", CustomerQualified)
CUSTOMER_CONVERTED = Topic("customer.customer.converted", CustomerConverted)
CUSTOMER_CHURNED = Topic("customer.customer.churned", CustomerChurned)
CUSTOMER_REACTIVATED = Topic("customer.customer.reactivated", CustomerReactivated)
CUSTOMER_TIER_CHANGED = Topic("customer.customer.tier_changed", CustomerTierChanged)
CUSTOMER_REASSIGNED = Topic("customer.customer.reassigned", CustomerReassigned)
COMPANY_CREATED = Topic("customer.company.created", CompanyCreated)
COMPANY_ACTIVATED = Topic("customer.company.activated", CompanyActivated)
COMPANY_DEACTIVATED = Topic("customer.company.deactivated", CompanyDeactivated)
DEAL_CREATED = Topic("customer.deal.created", DealCreated)
DEAL_STAGE_CHANGED = Topic("customer.deal.stage_changed", DealStageChanged)
DEAL_WON = Topic("customer.deal.won", DealWon)
DEAL_LOST = Topic("customer.deal.lost", DealLost)
INTERACTION_LOGGED = Topic("customer.interaction.logged", InteractionLogged)

CATALOGUE = TopicCatalogue(
    "customer",
    (
        CUSTOMER_CREATED,
        CUSTOMER_UPDATED,
        CUSTOMER_QUALIFIED,
        CUSTOMER_CONVERTED,
        CUSTOMER_CHURNED,
        CUSTOMER_REACTIVATED,
        CUSTOMER_TIER_CHANGED,
        CUSTOMER_REASSIGNED,
        COMPANY_CREATED,
        COMPANY_ACTIVATED,
        COMPANY_DEACTIVATED,
        DEAL_CREATED,
        DEAL_STAGE_CHANGED,
        DEAL_WON,
        DEAL_LOST,
        INTERACTION_LOGGED,
    ),
)
