"""Events of reference data: countries, currencies, languages and time zones.

Every ``...Created`` and ``...Updated`` carries the whole state, so that a subscriber can store it without
asking back. ``aggregate_id`` is derived from the code (``country_id`` and its siblings).
"""

from __future__ import annotations

import enum
from datetime import date

from bus_core import Event, InvalidEvent, event
from promenade_shared.values import (
    CountryCode,
    CountryCodeAlpha3,
    CountryNumericCode,
    CurrencyCode,
    CurrencyNumericCode,
    LanguageCode,
    LanguageCodeAlpha2,
    MinorUnits,
    Name,
    TimezoneName,
)

__all__ = [
    "CountryCreated",
    "CountryDeactivated",
    "CountryUpdated",
    "CurrencyCreated",
    "CurrencyDeactivated",
    "CurrencyUpdated",
    "LanguageCreated",
    "LanguageDeactivated",
    "LanguageKind",
    "LanguageScope",
    "LanguageUpdated",
    "TimezoneCreated",
    "TimezoneDeactivated",
    "TimezoneUpdated",
]


class LanguageScope(enum.StrEnum):
    """The kind of language that an ISO 639-3 code denotes; in the standard's tables a letter."""

    INDIVIDUAL = "individual"
    """Letter I."""

    MACROLANGUAGE = "macrolanguage"
    """Letter M: several individual languages that are one for some purposes, as in Chinese (zho)."""

    SPECIAL = "special"
    """Letter S: undetermined (und), multiple (mul), no linguistic content (zxx), uncoded (mis)."""


class LanguageKind(enum.StrEnum):
    """The type of a language in ISO 639-3; in the standard's tables a letter."""

    ANCIENT = "ancient"
    """Letter A."""

    CONSTRUCTED = "constructed"
    """Letter C."""

    EXTINCT = "extinct"
    """Letter E."""

    HISTORICAL = "historical"
    """Letter H."""

    LIVING = "living"
    """Letter L."""

    SPECIAL = "special"
    """Letter S."""


# --- countries --------------------------------------------------------------------------------------------


@event
class CountryCreated(Event):
    """A country became available."""

    alpha_2: CountryCode
    """ISO 3166-1 alpha-2."""

    alpha_3: CountryCodeAlpha3
    """ISO 3166-1 alpha-3."""

    numeric: CountryNumericCode
    """ISO 3166-1 numeric."""

    name: Name
    """The short name in English, as in 'Switzerland'."""

    official_name: Name | None = None
    """The formal name in English, as in 'Swiss Confederation', where there is one."""


@event
class CountryUpdated(Event):
    """The names or codes of a country changed; the event carries its whole new state."""

    alpha_2: CountryCode
    """ISO 3166-1 alpha-2."""

    alpha_3: CountryCodeAlpha3
    """ISO 3166-1 alpha-3."""

    numeric: CountryNumericCode
    """ISO 3166-1 numeric."""

    name: Name
    """The short name in English."""

    official_name: Name | None = None
    """The formal name in English, where there is one."""


@event
class CountryDeactivated(Event):
    """A country can no longer be chosen; existing records keep it."""

    alpha_2: CountryCode
    """ISO 3166-1 alpha-2."""

    effective_on: date | None = None
    """From which day on; None when that is not known."""

    replaced_by: tuple[CountryCode, ...] = ()
    """Its successors: for 'AN' these are 'BQ', 'CW' and 'SX'."""

    def __attrs_post_init__(self) -> None:
        if self.alpha_2 in self.replaced_by:
            raise InvalidEvent("CountryDeactivated", ["replaced_by must be other countries than alpha_2"])


# --- currencies -------------------------------------------------------------------------------------------


@event
class CurrencyCreated(Event):
    """A currency became available."""

    code: CurrencyCode
    """ISO 4217 alphabetic code."""

    numeric: CurrencyNumericCode
    """ISO 4217 numeric code."""

    name: Name
    """The name in English, as in 'Swiss Franc'."""

    minor_units: MinorUnits | None = None
    """Decimal digits of the minor unit; None when it has none by the standard (gold, XAU) or is not known."""


@event
class CurrencyUpdated(Event):
    """The name, number or minor unit of a currency changed; the event carries its whole new state."""

    code: CurrencyCode
    """ISO 4217 alphabetic code."""

    numeric: CurrencyNumericCode
    """ISO 4217 numeric code."""

    name: Name
    """The name in English."""

    minor_units: MinorUnits | None = None
    """Decimal digits of the minor unit; None when it has none by the standard or is not known."""


@event
class CurrencyDeactivated(Event):
    """A currency can no longer be chosen; existing amounts keep it."""

    code: CurrencyCode
    """ISO 4217 alphabetic code."""

    effective_on: date | None = None
    """From which day on; None when that is not known."""

    replaced_by: CurrencyCode | None = None
    """Its successor: for 'HRK' that is 'EUR'."""

    def __attrs_post_init__(self) -> None:
        if self.replaced_by == self.code:
            raise InvalidEvent("CurrencyDeactivated", ["replaced_by must be another currency than code"])


# --- languages --------------------------------------------------------------------------------------------


@event
class LanguageCreated(Event):
    """A language became available."""

    code: LanguageCode
    """ISO 639-3."""

    name: Name
    """The reference name in English, as in 'German'."""

    alpha_2: LanguageCodeAlpha2 | None = None
    """ISO 639-1, where there is one."""

    scope: LanguageScope = LanguageScope.INDIVIDUAL
    kind: LanguageKind = LanguageKind.LIVING


@event
class LanguageUpdated(Event):
    """The names or codes of a language changed; the event carries its whole new state."""

    code: LanguageCode
    """ISO 639-3."""

    name: Name
    """The reference name in English."""

    alpha_2: LanguageCodeAlpha2 | None = None
    """ISO 639-1, where there is one."""

    scope: LanguageScope = LanguageScope.INDIVIDUAL
    kind: LanguageKind = LanguageKind.LIVING


@event
class LanguageDeactivated(Event):
    """A language can no longer be chosen; existing records keep it."""

    code: LanguageCode
    """ISO 639-3."""

    effective_on: date | None = None
    """From which day on; None when that is not known."""

    replaced_by: tuple[LanguageCode, ...] = ()
    """Its successors; several when the code was split."""

    def __attrs_post_init__(self) -> None:
        if self.code in self.replaced_by:
            raise InvalidEvent("LanguageDeactivated", ["replaced_by must be other languages than code"])


# --- time zones -------------------------------------------------------------------------------------------


@event
class TimezoneCreated(Event):
    """A time zone became available."""

    name: TimezoneName
    """In the IANA tz database."""

    countries: tuple[CountryCode, ...] = ()
    """Where it is used, the most populous first (the order of zone1970.tab); empty for zones like 'UTC'."""

    alias_of: TimezoneName | None = None
    """The zone this name is a link to: 'Europe/Kiev' is one to 'Europe/Kyiv'."""

    def __attrs_post_init__(self) -> None:
        if self.alias_of == self.name:
            raise InvalidEvent("TimezoneCreated", ["alias_of must be another time zone than name"])


@event
class TimezoneUpdated(Event):
    """The countries or the link target of a time zone changed; the event carries its whole new state."""

    name: TimezoneName
    """In the IANA tz database."""

    countries: tuple[CountryCode, ...] = ()
    """Where it is used, the most populous first; empty for zones like 'UTC'."""

    alias_of: TimezoneName | None = None
    """The zone this name is a link to."""

    def __attrs_post_init__(self) -> None:
        if self.alias_of == self.name:
            raise InvalidEvent("TimezoneUpdated", ["alias_of must be another time zone than name"])


@event
class TimezoneDeactivated(Event):
    """A time zone can no longer be chosen; existing records keep it."""

    name: TimezoneName
    """In the IANA tz database."""

    replaced_by: TimezoneName | None = None
    """Its successor, where there is one."""

    def __attrs_post_init__(self) -> None:
        if self.replaced_by == self.name:
            raise InvalidEvent("TimezoneDeactivated", ["replaced_by must be another time zone than name"])
