"""An example of every event, in the order of the catalogue, for tests of those who subscribe."""

from __future__ import annotations

from datetime import date

from bus_core import Event
from promenade_shared.events import (
    CountryCreated,
    CountryDeactivated,
    CountryUpdated,
    CurrencyCreated,
    CurrencyDeactivated,
    CurrencyUpdated,
    LanguageCreated,
    LanguageDeactivated,
    LanguageKind,
    LanguageScope,
    LanguageUpdated,
    TimezoneCreated,
    TimezoneDeactivated,
    TimezoneUpdated,
)
from promenade_shared.values import country_id, currency_id, language_id, timezone_id

__all__ = ["EXAMPLES"]

EXAMPLES: tuple[Event, ...] = (
    CountryCreated(
        aggregate_id=country_id("CH"),
        alpha_2="CH",
        alpha_3="CHE",
        numeric="756",
        name="Switzerland",
        official_name="Swiss Confederation",
    ),
    CountryUpdated(
        aggregate_id=country_id("TR"),
        alpha_2="TR",
        alpha_3="TUR",
        numeric="792",
        name="Türkiye",
        official_name="Republic of Türkiye",
    ),
    CountryDeactivated(
        aggregate_id=country_id("AN"),
        alpha_2="AN",
        effective_on=date(2010, 12, 15),
        replaced_by=("BQ", "CW", "SX"),
    ),
    CurrencyCreated(
        aggregate_id=currency_id("CHF"), code="CHF", numeric="756", name="Swiss Franc", minor_units=2
    ),
    CurrencyUpdated(aggregate_id=currency_id("XAU"), code="XAU", numeric="959", name="Gold"),
    CurrencyDeactivated(
        aggregate_id=currency_id("HRK"), code="HRK", effective_on=date(2023, 1, 1), replaced_by="EUR"
    ),
    LanguageCreated(aggregate_id=language_id("deu"), code="deu", name="German", alpha_2="de"),
    LanguageUpdated(
        aggregate_id=language_id("zho"),
        code="zho",
        name="Chinese",
        alpha_2="zh",
        scope=LanguageScope.MACROLANGUAGE,
        kind=LanguageKind.LIVING,
    ),
    LanguageDeactivated(
        aggregate_id=language_id("mol"), code="mol", effective_on=date(2008, 11, 3), replaced_by=("ron",)
    ),
    TimezoneCreated(
        aggregate_id=timezone_id("Europe/Zurich"), name="Europe/Zurich", countries=("CH", "DE", "LI")
    ),
    TimezoneUpdated(
        aggregate_id=timezone_id("Europe/Kiev"),
        name="Europe/Kiev",
        countries=("UA",),
        alias_of="Europe/Kyiv",
    ),
    TimezoneDeactivated(
        aggregate_id=timezone_id("US/Pacific-New"),
        name="US/Pacific-New",
        replaced_by="America/Los_Angeles",
    ),
)
