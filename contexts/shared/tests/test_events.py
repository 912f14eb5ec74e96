from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4
from zoneinfo import available_timezones

import attrs
import pytest

from bus_core import InvalidEvent
from promenade_shared import (
    CountryCreated,
    CountryDeactivated,
    CurrencyCreated,
    CurrencyDeactivated,
    LanguageCreated,
    LanguageDeactivated,
    TimezoneCreated,
    TimezoneDeactivated,
    TimezoneName,
    TimezoneUpdated,
    country_id,
    currency_id,
    language_id,
    timezone_id,
)
from promenade_shared.examples import EXAMPLES
from promenade_shared.values import fits

BY_CLASS: dict[type, Any] = {type(example): example for example in EXAMPLES}


@pytest.mark.parametrize(
    ("event_class", "field", "value", "wanted"),
    [
        (CountryCreated, "alpha_2", "ch", "an ISO 3166-1 alpha-2 code"),
        (CountryCreated, "alpha_2", "CHE", "an ISO 3166-1 alpha-2 code"),
        (CountryCreated, "alpha_2", "CH\n", "an ISO 3166-1 alpha-2 code"),
        (CountryCreated, "alpha_2", "ÄÖ", "an ISO 3166-1 alpha-2 code"),
        (CountryCreated, "alpha_3", "CH", "an ISO 3166-1 alpha-3 code"),
        (CountryCreated, "numeric", 756, "a str"),
        (CountryCreated, "numeric", "40", "a str of three digits"),
        (CountryCreated, "numeric", "٧٥٦", "a str of three digits"),
        (CountryCreated, "name", "", "a text of 1 to 200 characters"),
        (CountryCreated, "name", " Switzerland", "surrounding blanks"),
        (CountryCreated, "name", "Swit\x00zerland", "control characters"),
        (CountryCreated, "name", "\ud800", "a text without lone surrogates"),
        (CountryCreated, "name", "x" * 201, "a text of 1 to 200 characters"),
        (CountryCreated, "aggregate_id", "CH", "a UUID"),
        (CountryDeactivated, "replaced_by", {"BQ"}, "a tuple"),
        (CountryDeactivated, "replaced_by[1]", ("BQ", "cw"), "an ISO 3166-1 alpha-2 code"),
        (CountryDeactivated, "replaced_by", ("AN",), "other countries than alpha_2"),
        (CountryDeactivated, "effective_on", "2010-12-15", "a date"),
        (CurrencyCreated, "code", "Chf", "an ISO 4217 code"),
        (CurrencyCreated, "numeric", "8", "an ISO 4217 numeric code"),
        (CurrencyCreated, "minor_units", 5, "a number of decimal digits from 0 to 4"),
        (CurrencyCreated, "minor_units", -1, "a number of decimal digits from 0 to 4"),
        (CurrencyCreated, "minor_units", True, "an int"),
        (CurrencyDeactivated, "replaced_by", "HRK", "another currency than code"),
        (LanguageCreated, "code", "de", "an ISO 639-3 code"),
        (LanguageCreated, "alpha_2", "DE", "an ISO 639-1 code"),
        (LanguageCreated, "scope", "individual", "one of LanguageScope.INDIVIDUAL"),
        (LanguageCreated, "kind", "living", "LanguageKind.LIVING"),
        (LanguageDeactivated, "replaced_by", ("mol",), "other languages than code"),
        (TimezoneCreated, "name", "Europe/", "an IANA time zone name"),
        (TimezoneCreated, "name", "../etc/passwd", "an IANA time zone name"),
        (TimezoneCreated, "name", "/Europe/Zurich", "an IANA time zone name"),
        (TimezoneCreated, "name", "Europe/Zürich", "an IANA time zone name"),
        (TimezoneCreated, "name", "+02:00", "an IANA time zone name"),
        (TimezoneCreated, "name", "Europe/" + "x" * 15, "an IANA time zone name"),
        (TimezoneCreated, "alias_of", "Europe/Zurich", "another time zone than name"),
        (TimezoneUpdated, "alias_of", "Europe/Kiev", "another time zone than name"),
        (TimezoneDeactivated, "replaced_by", "US/Pacific-New", "another time zone than name"),
    ],
)
def test_bad_value(event_class: type, field: str, value: object, wanted: str) -> None:
    """A bad value is refused when the event is made; the error names the field and what it must be."""
    with pytest.raises(InvalidEvent) as caught:
        attrs.evolve(BY_CLASS[event_class], **{field.partition("[")[0]: value})
    assert f"{field} must be" in str(caught.value)
    assert wanted in str(caught.value)
    assert event_class.__name__ in str(caught.value)


def test_all_faults_together() -> None:
    """Every bad field of an event is reported at once."""
    with pytest.raises(InvalidEvent) as caught:
        CountryCreated(aggregate_id=uuid4(), alpha_2="x", alpha_3="x", numeric="x", name="")
    assert len(caught.value.faults) == 4


def test_timezone_names() -> None:
    """Every name of the tz database of this machine is accepted."""
    names = sorted(available_timezones() | {"UTC", "Europe/Zurich", "Etc/GMT+5", "America/Port-au-Prince"})
    assert [name for name in names if not fits(TimezoneName, name)] == []


def test_reference_ids_are_stable() -> None:
    """The id of a piece of reference data never changes: every service derives the same one."""
    assert country_id("CH") == UUID("c864f677-165a-598f-93ed-45de2af20ce1")
    assert currency_id("CHF") == UUID("4e7f0a95-e66a-59ce-a0bf-44ec87661fc4")
    assert language_id("deu") == UUID("c5030628-f2be-55d4-aeff-3810b8f2f7b3")
    assert timezone_id("Europe/Zurich") == UUID("224fbe26-7de0-5ff1-9746-2c72300df366")


def test_reference_ids_differ_by_kind() -> None:
    """The same code as a country, a currency, a language or a time zone is a different thing."""
    assert len({make("ABC") for make in (country_id, currency_id, language_id, timezone_id)}) == 4
