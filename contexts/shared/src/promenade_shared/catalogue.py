"""The topics of reference data: countries, currencies, languages and time zones."""

from __future__ import annotations

from bus_core import Topic, TopicCatalogue
from promenade_shared.events import (
    CountryCreated,
    CountryDeactivated,
    CountryUpdated,
    CurrencyCreated,
    CurrencyDeactivated,
    CurrencyUpdated,
    LanguageCreated,
    LanguageDeactivated,
    LanguageUpdated,
    TimezoneCreated,
    TimezoneDeactivated,
    TimezoneUpdated,
)

__all__ = [
    "CATALOGUE",
    "COUNTRY_CREATED",
    "COUNTRY_DEACTIVATED",
    "COUNTRY_UPDATED",
    "CURRENCY_CREATED",
    "CURRENCY_DEACTIVATED",
    "CURRENCY_UPDATED",
    "LANGUAGE_CREATED",
    "LANGUAGE_DEACTIVATED",
    "LANGUAGE_UPDATED",
    "TIMEZONE_CREATED",
    "TIMEZONE_DEACTIVATED",
    "TIMEZONE_UPDATED",
]

COUNTRY_CREATED = Topic("shared.country.created", CountryCreated)
COUNTRY_UPDATED = Topic("shared.country.updated", CountryUpdated)
COUNTRY_DEACTIVATED = Topic("shared.country.deactivated", CountryDeactivated)
CURRENCY_CREATED = Topic("shared.currency.created", CurrencyCreated)
CURRENCY_UPDATED = Topic("shared.currency.updated", CurrencyUpdated)
CURRENCY_DEACTIVATED = Topic("shared.currency.deactivated", CurrencyDeactivated)
LANGUAGE_CREATED = Topic("shared.language.created", LanguageCreated)
LANGUAGE_UPDATED = Topic("shared.language.updated", LanguageUpdated)
LANGUAGE_DEACTIVATED = Topic("shared.language.deactivated", LanguageDeactivated)
TIMEZONE_CREATED = Topic("shared.timezone.created", TimezoneCreated)
TIMEZONE_UPDATED = Topic("shared.timezone.updated", TimezoneUpdated)
TIMEZONE_DEACTIVATED = Topic("shared.timezone.deactivated", TimezoneDeactivated)

CATALOGUE = TopicCatalogue(
    "shared",
    (
        COUNTRY_CREATED,
        COUNTRY_UPDATED,
        COUNTRY_DEACTIVATED,
        CURRENCY_CREATED,
        CURRENCY_UPDATED,
        CURRENCY_DEACTIVATED,
        LANGUAGE_CREATED,
        LANGUAGE_UPDATED,
        LANGUAGE_DEACTIVATED,
        TIMEZONE_CREATED,
        TIMEZONE_UPDATED,
        TIMEZONE_DEACTIVATED,
    ),
)
