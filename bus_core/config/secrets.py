"""Keeps secrets out of messages, logs, and listings of the configuration.

Typed settings mark their secret fields. This module serves data without types. It recognizes secrets by the
name of a key, and by the form of a text (the user information of a URL).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["MASK", "Secret", "is_secret_name", "mask_text", "mask_tree"]

MASK: Final = "***"

_WORDS = (
    r"pass(?:w(?:or)?d|phrase)?|pw|pwd|secrets?|tokens?|credentials?|auth|authorization|cookie|dsn"
    r"|(?:api|private|access|secret|signing|encryption)[_-]?key"
)
_SECRET_NAME = re.compile(
    rf"(?:^|[_.-])(?:{_WORDS})(?:$|[_.-])|passw(?:or)?d|secret|credential|apikey", re.IGNORECASE
)
_SECRET_PAIR = re.compile(rf"(?i)((?:{_WORDS})\s?=\s?)[^\s&;,]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# Greedy on purpose: a password may have an unescaped '@' or '/'.
_USER_INFORMATION = re.compile(r"(?<=://)\S*@")


class Secret(str):
    """A text that its ``repr`` hides; ``str()`` of it, and its use, are those of the text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK if self else "")


def is_secret_name(name: object) -> bool:
    """True when a key of that name usually has a password, a token or another credential."""
    return isinstance(name, str) and _SECRET_NAME.search(_CAMEL.sub("_", name)) is not None


def mask_text(text: str) -> str:
    """The text without the user information of URLs, and without ``password=...`` pairs.

    A text of more than 1000 characters is hidden completely.
    """
    if len(text) > 1_000:
        return MASK
    return _SECRET_PAIR.sub(rf"\1{MASK}", _USER_INFORMATION.sub(f"{MASK}@", text))


def mask_tree(value: Any, *, hidden: bool = False) -> Any:
    """A copy of plain data in which secrets are replaced; ``hidden`` replaces every scalar in it.

    Empty values, true and false stay visible, because it is useful to know that a password is not set.
    """
    if isinstance(value, Mapping):
        return {key: mask_tree(item, hidden=hidden or is_secret_name(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_tree(item, hidden=hidden) for item in value]
    if value is None or value == "" or isinstance(value, bool):
        return value
    if hidden or isinstance(value, Secret):
        return MASK
    return mask_text(value) if isinstance(value, str) else value
