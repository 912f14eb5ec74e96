"""Publishes reference data, and later what changes in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from bus_core import Event, Topic
from crm.journal import JournaledBus
from crm.shared import sources
from promenade_shared import (
    COUNTRY_CREATED,
    COUNTRY_UPDATED,
    CURRENCY_CREATED,
    CURRENCY_DEACTIVATED,
    LANGUAGE_CREATED,
    LANGUAGE_DEACTIVATED,
    TIMEZONE_CREATED,
    TIMEZONE_DEACTIVATED,
    CurrencyDeactivated,
    LanguageDeactivated,
    TimezoneDeactivated,
    currency_id,
    language_id,
    timezone_id,
)

__all__ = ["ReferenceDataPublisher"]

_BATCH = 200


class ReferenceDataPublisher:
    """Announces every country, currency, language and time zone, then withdraws what nobody may choose."""

    def __init__(self, bus: JournaledBus) -> None:
        self._bus = bus

    def prepare(self) -> None:
        """Reads the sources; blocks for about a second."""
        sources.read_all()

    async def publish_all(self) -> None:
        """Announces everything, and then tells what has changed."""
        await self.announce()
        await self.change()

    async def announce(self) -> None:
        """Publishes what there is."""
        await self._publish(
            chain(
                ((COUNTRY_CREATED, country) for country in sources.countries()),
                ((CURRENCY_CREATED, currency) for currency in sources.currencies()),
                ((LANGUAGE_CREATED, language) for language in sources.languages()),
                ((TIMEZONE_CREATED, zone) for zone in sources.timezones()),
            )
        )

    async def change(self) -> None:
        """Publishes what has got another name, and takes back the codes that nobody could choose."""
        await self._publish(
            chain(
                ((COUNTRY_UPDATED, renamed) for renamed in sources.common_names()),
                (
                    (CURRENCY_DEACTIVATED, CurrencyDeactivated(aggregate_id=currency_id(code), code=code))
                    for code in sources.NO_MONEY
                ),
                (
                    (LANGUAGE_DEACTIVATED, LanguageDeactivated(aggregate_id=language_id(code), code=code))
                    for code in sources.NO_LANGUAGE
                ),
                (
                    (TIMEZONE_DEACTIVATED, TimezoneDeactivated(aggregate_id=timezone_id(name), name=name))
                    for name in sources.NO_PLACE
                ),
            )
        )

    async def _publish(self, items: Iterator[tuple[Topic[Any], Event]]) -> None:
        """Makes so many events that others have to wait for some milliseconds, and publishes them at once."""
        while batch := list(islice(items, _BATCH)):
            await self._bus.publish_many(batch)
