"""A catalogue with an event whose fields are of many kinds."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from bus_core import Constraint, Event, FrozenMapping, Personal, Topic, TopicCatalogue, event

Email = Annotated[str, Constraint("an e-mail address", lambda text: "@" in text)]


class Plan(StrEnum):
    FREE = "free"
    PAID = "paid"


@event(type="member.joined", version=1)
class MemberJoined(Event):
    """A person became a member."""

    email: Personal[Email]
    plan: Plan = Plan.FREE
    fee: Decimal = Decimal("0")
    since: date | None = None
    tags: tuple[str, ...] = ()
    limits: Mapping[str, int] = FrozenMapping()


MEMBER_JOINED = Topic("frozen.member.joined", MemberJoined, key=lambda event: event.plan)

CATALOGUE = TopicCatalogue("frozen", [MEMBER_JOINED])
