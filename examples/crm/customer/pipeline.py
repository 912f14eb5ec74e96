"""The pipeline moves deals from stage to stage until they are won or lost."""

from __future__ import annotations

from random import Random
from typing import Any
from uuid import UUID

from crm.journal import JournaledBus
from crm.shelf import MemoryShelf, Shelf
from promenade_customer import (
    CUSTOMER_CONVERTED,
    CUSTOMER_TIER_CHANGED,
    DEAL_LOST,
    DEAL_STAGE_CHANGED,
    DEAL_WON,
    CustomerConverted,
    CustomerTier,
    CustomerTierChanged,
    DealCreated,
    DealLost,
    DealStage,
    DealStageChanged,
    DealValue,
    DealWon,
    LossReason,
)
from promenade_shared import Money

__all__ = ["DealPipeline"]

_NEXT_STAGE = dict(zip(DealStage, [*DealStage][1:], strict=False))


class DealPipeline:
    """Follows the events of deals, each deal in their order: a stage is left before the next one begins."""

    def __init__(self, bus: JournaledBus, *, seed: int, shelf: Shelf | None = None) -> None:
        self._bus = bus
        self._seed = seed
        shelf = shelf or MemoryShelf()
        self._values = shelf.table("values of deals")
        self._paying = shelf.table("paying customers")
        self.won = 0
        self.lost = 0
        bus.subscribe("customer.deal.*", self.follow, name="customer.pipeline", ordered=True)

    async def follow(self, event: Any) -> None:
        """Takes the next step of a deal."""
        match event:
            case DealCreated():
                self._values[event.aggregate_id] = [event.value.amount_minor, event.value.currency]
                await self._advance(event.aggregate_id, event.customer_id, event.stage)
            case DealStageChanged():
                await self._advance(event.aggregate_id, event.customer_id, event.to_stage)
            case DealWon():
                self.won += 1
                self._values.pop(event.aggregate_id, None)
                await self._convert(event)
            case DealLost():
                self.lost += 1
                self._values.pop(event.aggregate_id, None)
            case _:
                pass

    async def _advance(self, deal: UUID, customer: UUID, stage: DealStage) -> None:
        random = Random(f"pipeline {self._seed} {deal} {stage}")
        following = _NEXT_STAGE.get(stage)
        if random.random() < 0.15:
            lost = DealLost(
                aggregate_id=deal,
                customer_id=customer,
                reason=random.choice(tuple(LossReason)),
                value=self._value(deal),
            )
            await self._bus.publish(DEAL_LOST, lost)
        elif following is not None:
            moved = DealStageChanged(
                aggregate_id=deal,
                customer_id=customer,
                from_stage=stage,
                to_stage=following,
                probability=random.randrange(20, 95, 5),
            )
            await self._bus.publish(DEAL_STAGE_CHANGED, moved)
        else:
            won = DealWon(aggregate_id=deal, customer_id=customer, value=self._value(deal))
            await self._bus.publish(DEAL_WON, won)

    def _value(self, deal: UUID) -> DealValue:
        """Its value. It is known until the deal has ended: a step may be taken twice."""
        amount, currency = self._values[deal]
        return Money(amount_minor=amount, currency=currency)

    async def _convert(self, event: DealWon) -> None:
        if event.customer_id not in self._paying:
            self._paying[event.customer_id] = True
            converted = CustomerConverted(
                aggregate_id=event.customer_id, deal_id=event.aggregate_id, value=event.value
            )
            await self._bus.publish(CUSTOMER_CONVERTED, converted)
            return
        # Whoever buys again is promoted.
        promoted = CustomerTierChanged(
            aggregate_id=event.customer_id, from_tier=CustomerTier.STANDARD, to_tier=CustomerTier.SILVER
        )
        await self._bus.publish(CUSTOMER_TIER_CHANGED, promoted)
