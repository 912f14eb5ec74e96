"""Where reference data comes from: ISO codes from pycountry, time zones from zoneinfo and tzdata."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import pycountry

from promenade_shared import (
    CountryCreated,
    CountryUpdated,
    CurrencyCreated,
    LanguageCreated,
    LanguageKind,
    LanguageScope,
    TimezoneCreated,
    country_id,
    currency_id,
    language_id,
    timezone_id,
)

__all__ = [
    "NO_LANGUAGE",
    "NO_MONEY",
    "NO_PLACE",
    "common_names",
    "countries",
    "currencies",
    "languages",
    "read_all",
    "timezones",
    "zone_names",
]

NO_MONEY = ("XTS", "XXX")
"""ISO 4217 reserves XTS for testing; XXX denotes that no currency is involved."""

NO_LANGUAGE = ("mis", "mul", "und", "zxx")
"""ISO 639-3 codes for uncoded, multiple and undetermined languages, and for no linguistic content."""

NO_PLACE = ("Factory",)
"""The zone of a computer that was not set up yet."""

# ISO 4217, list one: decimal digits of the minor unit, where they are not two.
_MINOR_UNITS = {
    None: "XAG XAU XBA XBB XBC XBD XDR XPD XPT XSU XTS XUA XXX",
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

_SCOPES = {"I": LanguageScope.INDIVIDUAL, "M": LanguageScope.MACROLANGUAGE, "S": LanguageScope.SPECIAL}
_KINDS = {
    "A": LanguageKind.ANCIENT,
    "C": LanguageKind.CONSTRUCTED,
    "E": LanguageKind.EXTINCT,
    "H": LanguageKind.HISTORICAL,
    "L": LanguageKind.LIVING,
    "S": LanguageKind.SPECIAL,
}


def read_all() -> None:
    """Reads the files, once: a good second of work that would hold up everything else on an event loop."""
    for database in (pycountry.countries, pycountry.currencies, pycountry.languages):
        len(database)  # pycountry reads a database when it is first used
    zone_names()
    _countries_of_zones()
    _links()


def countries() -> Iterator[CountryCreated]:
    """Every country of ISO 3166-1."""
    for country in _records(pycountry.countries):
        yield CountryCreated(
            aggregate_id=country_id(country["alpha_2"]),
            alpha_2=country["alpha_2"],
            alpha_3=country["alpha_3"],
            numeric=country["numeric"],
            name=country["name"],
            official_name=country.get("official_name"),
        )


def common_names() -> Iterator[CountryUpdated]:
    """The countries that everybody calls by another name than the standard does, as Viet Nam."""
    for country in _records(pycountry.countries):
        if "common_name" in country:
            yield CountryUpdated(
                aggregate_id=country_id(country["alpha_2"]),
                alpha_2=country["alpha_2"],
                alpha_3=country["alpha_3"],
                numeric=country["numeric"],
                name=country["common_name"],
                official_name=country.get("official_name", country["name"]),
            )


def currencies() -> Iterator[CurrencyCreated]:
    """Every currency of ISO 4217."""
    for currency in _records(pycountry.currencies):
        code = currency["alpha_3"]
        yield CurrencyCreated(
            aggregate_id=currency_id(code),
            code=code,
            numeric=currency["numeric"],
            name=currency["name"],
            minor_units=_minor_units(code),
        )


def _minor_units(code: str) -> int | None:
    return next((digits for digits, codes in _MINOR_UNITS.items() if code in codes), 2)


def languages() -> Iterator[LanguageCreated]:
    """Every language of ISO 639-3."""
    for language in _records(pycountry.languages):
        yield LanguageCreated(
            aggregate_id=language_id(language["alpha_3"]),
            code=language["alpha_3"],
            name=language["name"],
            alpha_2=language.get("alpha_2"),
            scope=_SCOPES[language["scope"]],
            kind=_KINDS[language["type"]],
        )


def timezones() -> Iterator[TimezoneCreated]:
    """Every time zone of zoneinfo, with its countries and what it is a link to, as far as tzdata tells."""
    used_in, links = _countries_of_zones(), _links()
    for name in zone_names():
        yield TimezoneCreated(
            aggregate_id=timezone_id(name),
            name=name,
            countries=used_in.get(name, ()),
            alias_of=links.get(name),
        )


@cache
def zone_names() -> tuple[str, ...]:
    """The names of the IANA time zones that this machine knows."""
    # Some systems keep a copy of their own zone in the same directory.
    return tuple(sorted(zoneinfo.available_timezones() - {"localtime"}))


def _records(database: Any) -> Iterator[Mapping[str, Any]]:
    """The records of a pycountry database; a field that a record does not have is absent."""
    for record in database:
        yield dict(record)


@cache
def _countries_of_zones() -> dict[str, tuple[str, ...]]:
    """``zone1970.tab``: countries, coordinates, zone and comment, separated by tabs."""
    table = (files("tzdata") / "zoneinfo" / "zone1970.tab").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines() if not line.startswith("#")]
    return {row[2]: tuple(row[0].split(",")) for row in rows}


@cache
def _links() -> dict[str, str]:
    """``tzdata.zi``: a link is a line "L target name"."""
    text = (files("tzdata") / "zoneinfo" / "tzdata.zi").read_text(encoding="utf-8")
    rows = [line.split() for line in text.splitlines() if line.startswith("L ")]
    return {name: target for _, target, name in rows}
