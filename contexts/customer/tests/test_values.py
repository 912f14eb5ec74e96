from __future__ import annotations

import pickle
from typing import Any

import attrs
import pytest

from promenade_customer import PostalAddress

ADDRESS = PostalAddress(
    lines=("Bahnhofstrasse 1",), locality="Zürich", postal_code="8001", region="ZH", country="CH"
)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("lines", (), "one to four texts"),
        ("lines", ("planted",) * 5, "one to four texts"),
        ("lines", ("planted\n",), "one to four texts"),
        ("lines", ("planted", 2), "one to four texts"),
        ("lines", ["planted"], "of type tuple, got list"),
        ("lines", "planted", "of type tuple, got str"),
        ("locality", "planted ", "a text of 1 to 200 characters"),
        ("postal_code", "planted", "a postal code of 2 to 12 capital letters"),
        ("region", b"planted", "of type str, got bytes"),
        ("country", "planted", "an ISO 3166-1 alpha-2 code"),
    ],
)
def test_bad_address(field: str, value: Any, wanted: str) -> None:
    """A bad part of an address is refused; the error names the field and what it must be, not the value."""
    with pytest.raises(ValueError, match=f"^{field} must be {wanted}") as caught:
        attrs.evolve(ADDRESS, **{field: value})
    assert "planted" not in repr(caught.value)


@pytest.mark.parametrize("code", [None, "8001", "SW1A 1AA", "1010-123", "K1A 0B1", "D02 X285"])
def test_postal_codes(code: str | None) -> None:
    """Postal codes of many countries are accepted, and none where there is none."""
    assert attrs.evolve(ADDRESS, postal_code=code).postal_code == code


def test_repr_shows_the_country_only() -> None:
    """The repr of an address tells nothing about who lives there."""
    assert repr(ADDRESS) == "PostalAddress(country='CH')"


def test_address_is_a_value() -> None:
    """Addresses compare by value, can be hashed and pickled, and cannot be changed."""
    copy = pickle.loads(pickle.dumps(ADDRESS))
    assert copy == ADDRESS
    assert hash(copy) == hash(ADDRESS)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ADDRESS.locality = "Bern"  # type: ignore[misc]
