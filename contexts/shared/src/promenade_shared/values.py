"""The value types of reference data: ISO and IANA codes, and money.

Codes are checked by their shape, not looked up. The registries behind them grow several times a year (ISO
3166 and ISO 4217 amendments, tzdata releases). A service with last year's tables must still be able to
receive the event that announces a new code. Which codes exist is what the events of this context tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin
from uuid import UUID, uuid5

import attrs

from bus_core import Constraint

__all__ = [
    "CountryCode",
    "CountryCodeAlpha3",
    "CountryNumericCode",
    "CurrencyCode",
    "CurrencyNumericCode",
    "LanguageCode",
    "LanguageCodeAlpha2",
    "MinorUnits",
    "Money",
    "Name",
    "TimezoneName",
    "country_id",
    "currency_id",
    "fits",
    "language_id",
    "satisfies",
    "timezone_id",
]


CountryCode = Annotated[
    str, Constraint.matching("an ISO 3166-1 alpha-2 code: two capital letters, as in 'CH'", "[A-Z]{2}")
]
"""A country, the way every other contract names one."""

CountryCodeAlpha3 = Annotated[
    str, Constraint.matching("an ISO 3166-1 alpha-3 code: three capital letters, as in 'CHE'", "[A-Z]{3}")
]
"""A country by its three-letter code."""

CountryNumericCode = Annotated[
    str,
    Constraint.matching("an ISO 3166-1 numeric code: a str of three digits, as in '040'", "[0-9]{3}"),
]
"""A country by its number; a text, because leading zeros belong to it."""

CurrencyCode = Annotated[
    str, Constraint.matching("an ISO 4217 code: three capital letters, as in 'CHF'", "[A-Z]{3}")
]
"""A currency, the way every other contract names one."""

CurrencyNumericCode = Annotated[
    str, Constraint.matching("an ISO 4217 numeric code: a str of three digits, as in '008'", "[0-9]{3}")
]
"""A currency by its number; a text, because leading zeros belong to it."""

LanguageCode = Annotated[
    str, Constraint.matching("an ISO 639-3 code: three small letters, as in 'deu'", "[a-z]{3}")
]
"""A language, the way every other contract names one: ISO 639-3 covers all languages."""

LanguageCodeAlpha2 = Annotated[
    str, Constraint.matching("an ISO 639-1 code: two small letters, as in 'de'", "[a-z]{2}")
]
"""A language by its two-letter code, which only some 180 languages have."""

# The naming rules of the tz database (its file `theory`): components of at most 14 ASCII characters,
# separated by '/', that begin with a letter. Digits and '+' occur in 'Etc/GMT+5' and 'EST5EDT'.
_ZONE_PART = "[A-Za-z][A-Za-z0-9+_-]{0,13}"

TimezoneName = Annotated[
    str,
    Constraint.matching(
        "an IANA time zone name, as in 'Europe/Zurich'", f"{_ZONE_PART}(?:/{_ZONE_PART}){{0,3}}"
    ),
]
"""A time zone by its name in the IANA tz database."""

# No control characters or line separators, no lone surrogates (they have no UTF-8), no blanks around it.
Name = Annotated[
    str,
    Constraint.matching(
        "a text of 1 to 200 characters on one line, without control characters or surrounding blanks",
        r"(?!\s)[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,200}(?<!\s)",
    ),
]
"""The name of something."""

MinorUnits = Annotated[
    int,
    Constraint(
        "a number of decimal digits from 0 to 4 (ISO 4217, list one)", lambda digits: 0 <= digits <= 4
    ),
]
"""The decimal digits of a currency's minor unit: 2 for CHF, 0 for JPY, 3 for KWD."""


def _fault(annotation: Any, value: Any) -> str | None:
    """The rule that a value of a constrained type breaks; None for a good one."""
    base, *marks = get_args(annotation)
    kind: type = get_origin(base) or base
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return f"of type {kind.__name__}, got {type(value).__name__}"
    for mark in marks:
        if isinstance(mark, Constraint) and not mark.check(value):
            return mark.description
    return None


def fits(annotation: Any, value: object) -> bool:
    """True when a value has a constrained type: ``fits(CountryCode, "CH")``."""
    return _fault(annotation, value) is None


def satisfies(annotation: Any) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    """An attrs validator for a constrained type, for the fields of value classes.

    ``country: str = attrs.field(validator=satisfies(CountryCode))``. It raises ``ValueError`` that names the
    field and what it must be, and never the value: a value class cannot know whether it is personal.
    """

    def validate(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        fault = _fault(annotation, value)
        if fault is not None:
            raise ValueError(f"{attribute.name} must be {fault}")

    return validate


_AmountMinor = Annotated[
    int, Constraint("a signed 64-bit integer of minor units", lambda amount: -(2**63) <= amount < 2**63)
]


@attrs.frozen
class Money:
    """An amount in a currency, exact: ``Money(amount_minor=1250, currency="CHF")`` is 12.50 francs.

    How many digits the minor unit has is a property of the currency (``MinorUnits``). Negative amounts are
    allowed; a contract that needs none says so. Raises ``ValueError``.
    """

    amount_minor: int = attrs.field(validator=satisfies(_AmountMinor))
    """In minor units of the currency: centimes for CHF, yen for JPY."""

    currency: CurrencyCode = attrs.field(validator=satisfies(CurrencyCode))
    """ISO 4217."""


# --- identifiers of reference data ------------------------------------------------------------------------

# Fixed for ever: changing it would rename every piece of reference data.
_REFERENCE_DATA = UUID("6f1f2c5e-3f0c-5b7e-9c55-6d3a1c0f8e21")


def country_id(code: CountryCode) -> UUID:
    """The aggregate id of a country, the same in every service: a version 5 UUID of its alpha-2 code."""
    return uuid5(_REFERENCE_DATA, f"country:{code}")


def currency_id(code: CurrencyCode) -> UUID:
    """The aggregate id of a currency, the same in every service: a version 5 UUID of its alphabetic code."""
    return uuid5(_REFERENCE_DATA, f"currency:{code}")


def language_id(code: LanguageCode) -> UUID:
    """The aggregate id of a language, the same in every service: a version 5 UUID of its ISO 639-3 code."""
    return uuid5(_REFERENCE_DATA, f"language:{code}")


def timezone_id(name: TimezoneName) -> UUID:
    """The aggregate id of a time zone, the same in every service: a version 5 UUID of its IANA name."""
    return uuid5(_REFERENCE_DATA, f"timezone:{name}")
