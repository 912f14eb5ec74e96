"""Welcome mails, through a gateway that is down now and then."""

from __future__ import annotations

from random import Random
from uuid import UUID

from crm.journal import JournaledBus
from crm.shelf import MemoryShelf, Shelf
from promenade_identity import USER_REGISTERED, UserRegistered

__all__ = ["GatewayUnavailable", "MailGateway", "WelcomeMail"]


class GatewayUnavailable(ConnectionError):
    """The mail gateway did not take the mail; trying again later helps."""


class MailGateway:
    """Stands for a mail service. Four mails of a hundred fail at first, some of them twice.

    Which ones follows from the seed and the recipient, so that a run can be repeated.
    """

    def __init__(self, *, seed: int, shelf: Shelf | None = None) -> None:
        self._seed = seed
        self._tries = (shelf or MemoryShelf()).table("tries of mails")
        self.sent = 0
        self.refused = 0

    async def send(self, user_id: UUID, address: str, text: str) -> None:
        """Sends a mail; raises ``GatewayUnavailable``."""
        tries = self._tries[user_id] = self._tries.get(user_id, 0) + 1
        luck = Random(f"mail {self._seed} {user_id}").random()
        outages = 0 if luck >= 0.04 else 1 if luck >= 0.01 else 2
        if tries <= outages:
            self.refused += 1
            raise GatewayUnavailable("the mail gateway answered 451, try again later")
        self.sent += 1


class WelcomeMail:
    """Greets everybody who registers. The bus repeats it when the gateway is down."""

    def __init__(self, bus: JournaledBus, gateway: MailGateway) -> None:
        self._gateway = gateway
        bus.subscribe(USER_REGISTERED, self.greet, name="identity.welcome-mail")

    async def greet(self, event: UserRegistered) -> None:
        """Sends one welcome mail."""
        greeting = f"Welcome, {event.display_name or event.email}!"
        await self._gateway.send(event.aggregate_id, event.email, greeting)
