"""The published contract of the context ``shared``: its events, their values, and their topics."""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from promenade_shared.catalogue import (
        CATALOGUE,
        COUNTRY_CREATED,
        COUNTRY_DEACTIVATED,
        COUNTRY_UPDATED,
        CURRENCY_CREATED,
        CURRENCY_DEACTIVATED,
        CURRENCY_UPDATED,
        LANGUAGE_CREATED,
        LANGUAGE_DEACTIVATED,
        LANGUAGE_UPDATED,
        TIMEZONE_CREATED,
        TIMEZONE_DEACTIVATED,
        TIMEZONE_UPDATED,
    )
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
    from promenade_shared.values import (
        CountryCode,
        CountryCodeAlpha3,
        CountryNumericCode,
        CurrencyCode,
        CurrencyNumericCode,
        LanguageCode,
        LanguageCodeAlpha2,
        MinorUnits,
        Money,
        Name,
        TimezoneName,
        country_id,
        currency_id,
        language_id,
        timezone_id,
    )
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "catalogue": """
                CATALOGUE COUNTRY_CREATED COUNTRY_DEACTIVATED COUNTRY_UPDATED CURRENCY_CREATED
                CURRENCY_DEACTIVATED CURRENCY_UPDATED LANGUAGE_CREATED LANGUAGE_DEACTIVATED
                LANGUAGE_UPDATED TIMEZONE_CREATED TIMEZONE_DEACTIVATED TIMEZONE_UPDATED
            """,
            "events": """
                CountryCreated CountryDeactivated CountryUpdated CurrencyCreated CurrencyDeactivated
                CurrencyUpdated LanguageCreated LanguageDeactivated LanguageKind LanguageScope
                LanguageUpdated TimezoneCreated TimezoneDeactivated TimezoneUpdated
            """,
            "values": """
                CountryCode CountryCodeAlpha3 CountryNumericCode CurrencyCode CurrencyNumericCode
                LanguageCode LanguageCodeAlpha2 MinorUnits Money Name TimezoneName country_id currency_id
                language_id timezone_id
            """,
        },
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
    "CountryCode",
    "CountryCodeAlpha3",
    "CountryCreated",
    "CountryDeactivated",
    "CountryNumericCode",
    "CountryUpdated",
    "CurrencyCode",
    "CurrencyCreated",
    "CurrencyDeactivated",
    "CurrencyNumericCode",
    "CurrencyUpdated",
    "LanguageCode",
    "LanguageCodeAlpha2",
    "LanguageCreated",
    "LanguageDeactivated",
    "LanguageKind",
    "LanguageScope",
    "LanguageUpdated",
    "MinorUnits",
    "Money",
    "Name",
    "TimezoneCreated",
    "TimezoneDeactivated",
    "TimezoneName",
    "TimezoneUpdated",
    "country_id",
    "currency_id",
    "language_id",
    "timezone_id",
]
