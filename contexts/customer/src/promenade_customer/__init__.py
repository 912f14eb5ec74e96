"""The published contract of the context ``customer``: its events, their values, and their topics."""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from promenade_customer.catalogue import (
        CATALOGUE,
        COMPANY_ACTIVATED,
        COMPANY_CREATED,
        COMPANY_DEACTIVATED,
        CUSTOMER_CHURNED,
        CUSTOMER_CONVERTED,
        CUSTOMER_CREATED,
        CUSTOMER_QUALIFIED,
        CUSTOMER_REACTIVATED,
        CUSTOMER_REASSIGNED,
        CUSTOMER_TIER_CHANGED,
        CUSTOMER_UPDATED,
        DEAL_CREATED,
        DEAL_LOST,
        DEAL_STAGE_CHANGED,
        DEAL_WON,
        INTERACTION_LOGGED,
    )
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
        DealValue,
        InteractionChannel,
        InteractionDirection,
        LossReason,
        Note,
        Percent,
        PostalAddress,
        Seconds,
    )
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "catalogue": """
                CATALOGUE COMPANY_ACTIVATED COMPANY_CREATED COMPANY_DEACTIVATED CUSTOMER_CHURNED
                CUSTOMER_CONVERTED CUSTOMER_CREATED CUSTOMER_QUALIFIED CUSTOMER_REACTIVATED
                CUSTOMER_REASSIGNED CUSTOMER_TIER_CHANGED CUSTOMER_UPDATED DEAL_CREATED DEAL_LOST
                DEAL_STAGE_CHANGED DEAL_WON INTERACTION_LOGGED
            """,
            "events": """
                CompanyActivated CompanyCreated CompanyDeactivated CustomerChurned CustomerConverted
                CustomerCreated CustomerQualified CustomerReactivated CustomerReassigned
                CustomerTierChanged CustomerUpdated DealCreated DealLost DealStageChanged DealWon
                InteractionLogged
            """,
            "values": """
                ChurnReason CompanyDeactivationReason CustomerSource CustomerStatus CustomerTier DealStage
                DealValue InteractionChannel InteractionDirection LossReason Note Percent PostalAddress
                Seconds
            """,
        },
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
    "ChurnReason",
    "CompanyActivated",
    "CompanyCreated",
    "CompanyDeactivated",
    "CompanyDeactivationReason",
    "CustomerChurned",
    "CustomerConverted",
    "CustomerCreated",
    "CustomerQualified",
    "CustomerReactivated",
    "CustomerReassigned",
    "CustomerSource",
    "CustomerStatus",
    "CustomerTier",
    "CustomerTierChanged",
    "CustomerUpdated",
    "DealCreated",
    "DealLost",
    "DealStage",
    "DealStageChanged",
    "DealValue",
    "DealWon",
    "InteractionChannel",
    "InteractionDirection",
    "InteractionLogged",
    "LossReason",
    "Note",
    "Percent",
    "PostalAddress",
    "Seconds",
]
