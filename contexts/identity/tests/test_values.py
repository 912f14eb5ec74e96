from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_core import Constraint
from promenade_identity import EmailAddress, LanguageTag, PersonName, PhoneNumber


def fits(annotation: Any, value: str) -> bool:
    return all(mark.check(value) for mark in get_args(annotation)[1:] if isinstance(mark, Constraint))


@given(st.emails())
def test_every_plain_address(address: str) -> None:
    """Every address of RFC 5322 in its dot-atom form is accepted."""
    assert fits(EmailAddress, address)


@pytest.mark.parametrize(
    "address",
    [
        "a@b.c",
        "ada.lovelace+bus@example.org",
        "o'hara@example.co.uk",
        "jürg@müller.example",
        "用户@例子.广告",
        "x" * 64 + "@example.org",
        "ada@xn--mller-kva.example",
    ],
)
def test_good_address(address: str) -> None:
    """Addresses that people have are accepted, in every script."""
    assert fits(EmailAddress, address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "@",
        "ada",
        "ada@",
        "@example.org",
        "ada@example",
        "ada@@example.org",
        "ada@example..org",
        "ada..lovelace@example.org",
        ".ada@example.org",
        "ada.@example.org",
        "ada@-example.org",
        "ada@example.org ",
        "ada@example.org\n",
        "ada lovelace@example.org",
        "Ada <ada@example.org>",
        "ada@example.org,bob@example.org",
        "ada@[192.0.2.1]",
        "ada\x00@example.org",
        "ada\ud800@example.org",
        "x" * 65 + "@example.org",
        "ada@" + "x" * 64 + ".org",
        "ada@" + "x." * 130 + "org",
    ],
)
def test_bad_address(address: str) -> None:
    """An address without delivery, and one that would inject a header, is refused."""
    assert not fits(EmailAddress, address)


def test_hostile_address() -> None:
    """A long hostile text is refused at once: the check takes time linear in its length."""
    assert not fits(EmailAddress, "a" * 200_000)
    assert not fits(EmailAddress, "a." * 100 + "@" + "a-" * 20)


@pytest.mark.parametrize("number", ["+41441234567", "+6834000", "+442071234567", "+123456789012345"])
def test_good_number(number: str) -> None:
    """Numbers in E.164 form are accepted, the shortest and the longest too."""
    assert fits(PhoneNumber, number)


@pytest.mark.parametrize(
    "number",
    [
        "",
        "+",
        "0441234567",
        "0041441234567",
        "+41 44 123 45 67",
        "+0441234567",
        "+123456",
        "+1234567890123456",
        "+٤١٤٤١٢٣٤",
    ],
)
def test_bad_number(number: str) -> None:
    """Numbers without a country code, with separators, too short or too long are refused."""
    assert not fits(PhoneNumber, number)


@pytest.mark.parametrize(
    "tag",
    [
        "de",
        "de-CH",
        "zh-Hant-TW",
        "sl-rozaj-biske",
        "de-CH-1901",
        "es-419",
        "zh-yue-HK",
        "gsw",
        "en-US-u-islamcal",
        "de-CH-x-phonebk",
        "EN-gb",
        "und",
    ],
)
def test_good_tag(tag: str) -> None:
    """Well-formed BCP 47 tags are accepted, those of the examples of RFC 5646 among them."""
    assert fits(LanguageTag, tag)


@pytest.mark.parametrize(
    "tag", ["", "d", "de_CH", "de-", "-de", "de--CH", "de-419-DE", "deutschland", "de-x", "\u017fl", "en-u"]
)
def test_bad_tag(tag: str) -> None:
    """Tags with underscores, empty subtags or subtags in the wrong place are refused."""
    assert not fits(LanguageTag, tag)


@given(st.text())
def test_names(text: str) -> None:
    """A name that is accepted can be written as UTF-8, on one line, and has no surrounding blanks."""
    if fits(PersonName, text):
        assert text.encode().decode() == text
        assert text == text.strip()
        assert text.splitlines() == [text]
