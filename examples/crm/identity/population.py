"""A made-up population: the same people for the same seed, named in many scripts."""

# ruff: noqa: RUF001 (names are written in their own scripts)

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from random import Random
from uuid import UUID

import attrs

from promenade_identity import RegistrationMethod

__all__ = ["NAMELESS", "Person", "Population"]

NAMELESS = "\u200b"
"""A zero-width space: valid as a name, because nothing is known about names, and empty to the eye."""

# Given and family names by locale. Where the family name comes first, the pattern says so.
_NAMES: dict[str, tuple[str, str, str]] = {
    "en-GB": ("Ada Grace Alan Zoë Siân", "Lovelace Hopper Turing O'Neill Smith-Jones", "{given} {family}"),
    "en-US": ("Maya Ethan Ruth Miles", "Johnson Begay Washington McCoy", "{given} {family}"),
    "ga-IE": ("Aoife Tadhg Caoimhe", "Ó'Súilleabháin Ní\u00a0Bhriain Mac\u00a0Cárthaigh", "{given} {family}"),
    "de-CH": ("Urs Vreni Jürg Käthi", "Müller Zürcher Gessner Meyer", "{given} {family}"),
    "de-DE": ("Jörg Anke Änne Günther", "Strauß Weiß Köhler Groß", "{given} {family}"),
    "fr-FR": ("Éloïse François Noël Maëlle", "L'Hôpital Lefèvre d'Alembert Bézout", "{given} {family}"),
    "es-MX": ("Íñigo Begoña José Ximena", "Núñez Ibáñez Muñoz Güemes", "{given} {family}"),
    "pt-BR": ("João Conceição Luísa", "Magalhães Araújo Brandão", "{given} {family}"),
    "pl-PL": ("Łucja Stanisław Małgorzata", "Wójcik Skłodowska Żółkiewski", "{given} {family}"),
    "cs-CZ": ("Jiří Žofie Štěpán", "Dvořák Nováková Čapek", "{given} {family}"),
    "tr-TR": ("Işıl İsmail Çağla", "Yıldız Öztürk Şahin", "{given} {family}"),
    "is-IS": ("Þórdís Sæmundur Guðrún", "Jónsdóttir Ægisson Þorsteinsson", "{given} {family}"),
    "el-GR": ("Υπατία Αρχιμήδης Σοφία", "Παπαδοπούλου Ευκλείδης Καραθεοδωρή", "{given} {family}"),
    "uk-UA": ("Олексій Леся Тарас", "Шевченко Українка Їжакевич", "{given} {family}"),
    "ar-EG": ("نجيب هدى طه", "محفوظ شعراوي حسين", "{given} {family}"),
    "he-IL": ("עדה יונתן רות", "יונת כהן בן־דוד", "{given} {family}"),
    "hi-IN": ("आर्यभट श्रीनिवास कल्पना", "रामानुजन चावला मिश्रा", "{given} {family}"),
    "th-TH": ("สมชาย มาลี", "ศรีสุข วงศ์สว่าง", "{given} {family}"),
    "vi-VN": ("Ngọc Bảo Hằng", "Nguyễn Trần Đặng", "{family} {given}"),
    "ja-JP": ("紫式部 陽菜 翔太", "山田 髙橋 渡邊", "{family} {given}"),
    "zh-CN": ("小明 丽华 冲之", "王 李 欧阳", "{family}{given}"),
    "ko-KR": ("지우 하늘 세종", "김 이 남궁", "{family}{given}"),
    "sw-KE": ("Wanjiku Otieno Zawadi", "Mwangi Ochieng' Njoroge", "{given} {family}"),
    "haw-US": ("Kaʻiulani Līhau", "Kekaulike Kahananui", "{given} {family}"),
}
_DOMAINS = ("example.org", "example.com", "example.net", "mail.example", "bücher.example", "例え.example")
_CALLING_CODES = {"GB": "44", "US": "1", "CH": "41", "DE": "49", "FR": "33", "JP": "81", "IN": "91"}


@attrs.frozen(kw_only=True)
class Person:
    """Somebody who will register, and what they will do afterwards."""

    user_id: UUID
    contact_id: UUID
    name: str = attrs.field(repr=False)
    email: str = attrs.field(repr=False)
    phone: str | None = attrs.field(repr=False)
    locale: str
    method: RegistrationMethod

    verifies_email: bool = True
    activates: bool = True
    verifies_contact: bool = False
    moves: bool = False
    changes_password: bool = False
    is_suspended: bool = False
    is_duplicate: bool = False
    leaves: bool = False


class Population:
    """``size`` people made from a seed. One of them, in the middle, has a name that looks empty."""

    def __init__(self, *, seed: int, size: int) -> None:
        self._seed = seed
        self.size = size

    def __iter__(self) -> Iterator[Person]:
        random = Random(f"population {self._seed}")
        for number in range(self.size):
            yield _person(random, number, nameless=number == self.size // 2)


def _person(random: Random, number: int, *, nameless: bool) -> Person:
    user_id = UUID(int=random.getrandbits(128), version=4)
    contact_id = UUID(int=random.getrandbits(128), version=4)
    locale = random.choice(tuple(_NAMES))
    given, family, pattern = _NAMES[locale]
    name = pattern.format(given=random.choice(given.split(" ")), family=random.choice(family.split(" ")))
    name = name.replace("\u00a0", " ")
    if random.random() < 0.1:
        name = unicodedata.normalize("NFD", name)  # as some phones and file systems write it
    country = locale.rpartition("-")[2]
    code = _CALLING_CODES.get(country)
    phone = f"+{code}{random.randrange(10**8, 10**9)}" if code else None
    email = f"{_mailbox(name)}{number}@{random.choice(_DOMAINS)}"
    method = random.choices(tuple(RegistrationMethod), (70, 20, 8, 2))[0]
    chances = [random.random() for _ in range(8)]
    if nameless:
        return Person(
            user_id=user_id,
            contact_id=contact_id,
            name=NAMELESS,
            email=f"nobody{number}@example.org",
            phone=None,
            locale="en-GB",
            method=RegistrationMethod.PASSWORD,
        )
    return Person(
        user_id=user_id,
        contact_id=contact_id,
        name=name,
        email=email,
        phone=phone,
        locale=locale,
        method=method,
        verifies_email=chances[0] < 0.92,
        activates=chances[0] < 0.88,
        verifies_contact=chances[1] < 0.5,
        moves=chances[2] < 0.08,
        changes_password=chances[3] < 0.12,
        is_suspended=chances[4] < 0.03,
        is_duplicate=chances[5] < 0.02,
        leaves=chances[6] < 0.03,
    )


def _mailbox(name: str) -> str:
    """A local part of Latin letters where the name has some, otherwise a neutral one."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = ["".join(letter for letter in word if letter.isalnum()) for word in plain.split()]
    return ".".join(word for word in words if word) or "user"
