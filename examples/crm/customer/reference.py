"""The reference data that this context has learned from the events of ``shared``: its own read model."""

from __future__ import annotations

from typing import Any

from crm.journal import JournaledBus
from crm.shelf import MemoryShelf, Shelf
from promenade_shared import (
    CountryCreated,
    CountryUpdated,
    CurrencyCreated,
    CurrencyDeactivated,
    LanguageCreated,
    LanguageDeactivated,
    TimezoneCreated,
    TimezoneDeactivated,
)

__all__ = ["ReferenceData", "UnknownCurrency"]


class UnknownCurrency(ValueError):
    """A currency that ``shared`` never announced, or has withdrawn."""

    def __init__(self, code: str) -> None:
        super().__init__(f"no currency {code!r} is known")


class ReferenceData:
    """The codes to choose from. They change only by events, each code in the order of its events.

    ``countries`` maps ISO 3166-1 alpha-2 codes to names, ``currencies`` ISO 4217 codes to the decimal digits
    of the minor unit, ``languages`` ISO 639-3 codes to names. ``timezones`` has the names of zones.
    """

    def __init__(self, shelf: Shelf | None = None) -> None:
        shelf = shelf or MemoryShelf()
        self.countries = shelf.table("countries")
        self.currencies = shelf.table("currencies")
        self.languages = shelf.table("languages")
        self.timezones = shelf.table("timezones")
        self._language_of_two_letters = shelf.table("languages of two letters")
        self._zone_of_country = shelf.table("zones of countries")

    def follow(self, bus: JournaledBus) -> None:
        """Learns from the bus from now on."""
        # Ordered: a code that is announced and withdrawn must not be learned in the other order.
        bus.subscribe("shared.*.*", self.learn, name="customer.reference-data", ordered=True)

    async def learn(self, event: Any) -> None:
        """Takes over one event of the context ``shared``."""
        match event:
            case CountryCreated() | CountryUpdated():
                self.countries[event.alpha_2] = event.name
            case CurrencyCreated():
                self.currencies[event.code] = event.minor_units
            case CurrencyDeactivated():
                self.currencies.pop(event.code, None)
            case LanguageCreated():
                self.languages[event.code] = event.name
                if event.alpha_2:
                    self._language_of_two_letters[event.alpha_2] = event.code
            case LanguageDeactivated():
                self.languages.pop(event.code, None)
            case TimezoneCreated():
                self.timezones[event.name] = True
                for country in event.countries:
                    self._zone_of_country.setdefault(country, event.name)
            case TimezoneDeactivated():
                self.timezones.pop(event.name, None)
            case _:
                pass

    def country_of(self, locale: str) -> str | None:
        """The country of a language tag, if it names a known one: 'CH' for 'de-CH'."""
        region = locale.rpartition("-")[2]
        return region if region in self.countries else None

    def language_of(self, locale: str) -> str | None:
        """The ISO 639-3 code of a language tag, if it is known: 'deu' for 'de-CH'."""
        language = locale.partition("-")[0]
        code = self._language_of_two_letters.get(language, language)
        return code if code in self.languages else None

    def timezone_of(self, country: str | None) -> str | None:
        """A time zone that is used in a country."""
        return self._zone_of_country.get(country) if country else None

    def minor_units(self, currency: str) -> int:
        """Decimal digits of a currency that can be paid in; raises ``UnknownCurrency``."""
        digits: int | None = self.currencies.get(currency)
        if digits is None:
            raise UnknownCurrency(currency)
        return digits
