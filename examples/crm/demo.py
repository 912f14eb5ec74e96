"""The demo: reference data, a population that registers, a poison event that is fixed and sent back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from bus_core import DrainReport, HealthReport, HealthStatus
from crm.account import Account, BusCounters, make_account
from crm.app import Application, build
from crm.customer import visible_name
from crm.identity import Population
from crm.progress import Progress, Silent

__all__ = ["Outcome", "run_demo"]

_EVERY_LETTER = 2**31

_MOST_REDRIVES = 3
"""With a policy of few attempts an outage of the mail gateway may outlast a redrive."""


@attrs.frozen
class Outcome:
    """The result of a run."""

    account: Account
    health: HealthReport
    faults: tuple[str, ...]
    """Why the run is not good: those of the account, and what was wrong with health or closing."""

    seconds: float
    facts: Mapping[str, int]
    """The figures of the contexts, for instance the number of won deals."""

    @property
    def lost(self) -> int:
        """The number of lost deliveries."""
        return self.account.total.lost

    @property
    def adds_up(self) -> bool:
        """True when every published event is accounted for."""
        return not self.faults and not self.lost


async def run_demo(
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    seed: int = 1,
    users: int = 3000,
    progress: Progress | None = None,
    plugins: Iterable[object] = (),
) -> Outcome:
    """Runs the application from the first event to the closed bus, and balances the account."""
    progress = progress or Silent()
    app = build(config, seed=seed, plugins=plugins)
    progress.step("reading the tables of pycountry and tzdata")
    app.reference_data_publisher.prepare()
    began = time.perf_counter()
    async with app.bus:
        with progress.watching(app):
            await _publish_reference_data(app, progress)
            await _enrol(app, progress, Population(seed=seed, size=users))
            await _repair(app, progress)
            seconds = time.perf_counter() - began
        app.journal.note_remaining(await app.bus.dead_letters.list(limit=_EVERY_LETTER))
        account = make_account(app.journal, BusCounters(app.bus.published(), app.bus.state()), seconds)
        health = await app.bus.health()
        closed = await app.bus.close()
    faults = (*account.faults, *_faults_of_bus(health, closed))
    return Outcome(account, health, faults, seconds, _facts(app))


async def _publish_reference_data(app: Application, progress: Progress) -> None:
    progress.step("shared publishes every country, currency, language and time zone")
    await app.reference_data_publisher.publish_all()
    # Customers are opened with reference data that has arrived, not with what happens to be there.
    await app.bus.drain()
    known = app.reference_data
    progress.tell(
        f"customer has learned {len(known.countries)} countries, {len(known.currencies)} currencies, "
        f"{len(known.languages):,} languages and {len(known.timezones)} time zones"
    )


async def _enrol(app: Application, progress: Progress, population: Population) -> None:
    progress.step(f"{population.size:,} people register with identity; customer follows", population.size)
    for person in population:
        await app.registration.enrol(person)
    progress.step("waiting until everything that follows has been handled")
    await app.bus.drain()


async def _repair(app: Application, progress: Progress) -> None:
    """Looks at the dead letters, mends the handler, and sends the letters back."""
    for _ in range(_MOST_REDRIVES):
        letters = await app.bus.dead_letters.list(limit=_EVERY_LETTER)
        if not letters:
            return
        for letter in letters[:5]:
            error = letter.attempts[-1].error.partition(":")[0] if letter.attempts else "nothing"
            progress.tell(
                f"dead letter of {letter.subscription}: {letter.topic}, event {letter.event_id}; "
                f"{letter.reason}, the last with {error}"
            )
        progress.step(f"mending customer.accounts and redriving what is dead: {len(letters)}")
        app.customers.salutation_of = visible_name
        app.journal.note_redriven(letters)
        await app.bus.dead_letters.redrive(letters)
        await app.bus.drain()


def _faults_of_bus(health: HealthReport, closed: DrainReport) -> list[str]:
    faults: list[str] = []
    if health.status is HealthStatus.UNHEALTHY:
        faults.append("the bus is unhealthy")
    if not closed.completed:
        faults.append(f"closing the bus abandoned {len(closed.abandoned)} events")
    return faults


def _facts(app: Application) -> dict[str, int]:
    return {
        "users registered": app.registration.registered,
        "welcome mails sent": app.mail_gateway.sent,
        "welcome mails refused at first": app.mail_gateway.refused,
        "customers": len(app.customers.salutations),
        "deals won": app.pipeline.won,
        "deals lost": app.pipeline.lost,
        "unknown currencies refused": app.sales.refused_currencies.total(),
        "marks in the audit trail": len(app.audit.marks),
    }
