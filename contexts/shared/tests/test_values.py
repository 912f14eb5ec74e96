from __future__ import annotations

import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promenade_shared import CountryCode, Money, Name
from promenade_shared.values import fits, satisfies

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(INT64, st.from_regex("[A-Z]{3}", fullmatch=True))
def test_money_holds_any_64_bit_amount(amount: int, currency: str) -> None:
    """An amount is kept exactly, up to what a 64-bit column holds."""
    money = Money(amount_minor=amount, currency=currency)
    assert (money.amount_minor, money.currency) == (amount, currency)
    assert pickle.loads(pickle.dumps(money)) == money
    assert hash(money) == hash(Money(amount, currency))


@pytest.mark.parametrize(
    ("amount", "currency", "message"),
    [
        (12.5, "CHF", "amount_minor must be of type int, got float"),
        ("12", "CHF", "amount_minor must be of type int, got str"),
        (True, "CHF", "amount_minor must be of type int, got bool"),
        (2**63, "CHF", "amount_minor must be a signed 64-bit integer of minor units"),
        (1, "chf", "currency must be an ISO 4217 code: three capital letters, as in 'CHF'"),
        (1, None, "currency must be of type str, got NoneType"),
    ],
)
def test_money_refuses(amount: Any, currency: Any, message: str) -> None:
    """Money refuses what is not an exact amount in a currency, and says which field is wrong."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        Money(amount_minor=amount, currency=currency)


def test_money_is_immutable() -> None:
    """An amount is a value: it cannot be changed."""
    money = Money(1, "CHF")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        money.amount_minor = 2  # type: ignore[misc]


@given(st.text())
def test_names(text: str) -> None:
    """A name that is accepted can be written as UTF-8, on one line, and has no surrounding blanks."""
    if fits(Name, text):
        assert text.encode().decode() == text
        assert text == text.strip()
        assert text.splitlines() == [text]
        assert 1 <= len(text) <= 200


@given(st.text(st.characters(categories=("L", "M", "Nd", "P")), min_size=1, max_size=200))
def test_names_of_every_script(text: str) -> None:
    """Letters, marks, digits and punctuation of every script make a name."""
    assert fits(Name, text)


def test_value_classes_never_tell_the_value() -> None:
    """The error of a value class names the field and what it must be, but not the value."""

    @attrs.frozen
    class Place:
        country: CountryCode = attrs.field(validator=satisfies(CountryCode))

    assert Place("CH").country == "CH"
    with pytest.raises(ValueError, match=r"^country must be an ISO 3166-1 alpha-2 code") as caught:
        Place("planted")
    assert "planted" not in str(caught.value)
