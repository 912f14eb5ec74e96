"""Publishes reference data, and later what changes in it."""

from __future__ import annotations

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


class ReferenceDataPublisher:
    """Announces every country, currency, language and time zone, then withdraws what nobody may choose."""

    def __init__(self, bus: JournaledBus) -> None:
        self._bus = bus

    def prepare(self) -> None:
        """Reads the sources; blocks for about a second."""
        sources.read_all()

    async def publish_all(self) -> None:
        """Publishes everything."""
        for country in sources.countries():
            await self._bus.publish(COUNTRY_CREATED, country)
        for currency in sources.currencies():
            await self._bus.publish(CURRENCY_CREATED, currency)
        for language in sources.languages():
            await self._bus.publish(LANGUAGE_CREATED, language)
        for zone in sources.timezones():
            await self._bus.publish(TIMEZONE_CREATED, zone)
        for renamed in sources.common_names():
            await self._bus.publish(COUNTRY_UPDATED, renamed)
        await self._withdraw()

    async def _withdraw(self) -> None:
        """Takes back the codes that stand for nothing one could choose."""
        for code in sources.NO_MONEY:
            withdrawn = CurrencyDeactivated(aggregate_id=currency_id(code), code=code)
            await self._bus.publish(CURRENCY_DEACTIVATED, withdrawn)
        for code in sources.NO_LANGUAGE:
            await self._bus.publish(
                LANGUAGE_DEACTIVATED, LanguageDeactivated(aggregate_id=language_id(code), code=code)
            )
        for name in sources.NO_PLACE:
            await self._bus.publish(
                TIMEZONE_DEACTIVATED, TimezoneDeactivated(aggregate_id=timezone_id(name), name=name)
            )
