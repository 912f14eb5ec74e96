"""Marks for annotations of fields: personal data, rules for values, and forms of types that JSON lacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import attrs

__all__ = ["PERSONAL", "Constraint", "Deprecated", "JsonForm", "Personal", "deprecation_of"]

T = TypeVar("T")


class _PersonalMark:
    __slots__ = ()

    def __repr__(self) -> str:
        return "PERSONAL"


PERSONAL = _PersonalMark()

Personal = Annotated[T, PERSONAL]
"""Marks a field with personal data: ``email: Personal[str]``.

Its value never appears in the event's repr or in an error message of the bus. The mark works in every place:
inside an optional or a container, behind an alias, and on a field of a nested class.
"""


@attrs.frozen
class Constraint:
    """A rule for values: ``CountryCode = Annotated[str, Constraint("two capital letters", check)]``.

    ``check`` gets a value that already has the annotated type and returns whether it is acceptable; raising
    means that it is not. ``description`` completes the sentence "must be ...".
    """

    description: str
    check: Callable[[Any], bool] = attrs.field(repr=False)

    @classmethod
    def matching(
        cls, description: str, expression: str, *, longest: int | None = None, flags: int = 0
    ) -> Constraint:
        """A rule: the whole text matches a regular expression, and has at most ``longest`` characters.

        ``flags`` are those of ``re.compile``.
        """
        pattern = re.compile(expression, flags)

        def check(text: str) -> bool:
            return (longest is None or len(text) <= longest) and pattern.fullmatch(text) is not None

        return cls(description, check)


@attrs.frozen
class JsonForm:
    """The JSON form of a class that the bus does not know.

    ``Address = Annotated[IPv4Address, JsonForm(str, write=str, read=IPv4Address)]``: ``write`` makes a value
    of ``type`` out of an address, and ``read`` makes the address again; raising means that there is none.
    ``type`` is any annotation that a field may have. Values must be immutable: handlers share them.
    """

    type: Any
    write: Callable[[Any], Any] = attrs.field(kw_only=True, repr=False)
    read: Callable[[Any], Any] = attrs.field(kw_only=True, repr=False)


@attrs.frozen
class Deprecated:
    """Marks a field that goes away: ``name: Annotated[str, Deprecated("use display_name")] = ""``.

    ``advice`` says what to do instead. A bus warns publishers that give the field a value other than its
    default, and subscribers to the topic, once each with a ``DeprecationWarning``.
    """

    advice: str = attrs.field(validator=attrs.validators.instance_of(str))


def deprecation_of(hint: Any) -> str | None:
    """The advice of the mark ``Deprecated`` on the annotation of a field; None without one."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, Deprecated):
            return mark.advice
    if get_origin(hint) in (Annotated, Union, UnionType):  # a mark on an alternative is one of the field
        inside = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
        return next((advice for part in inside if (advice := deprecation_of(part)) is not None), None)
    return None
