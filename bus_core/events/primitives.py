"""Identifiers that sort by time, and mappings that refuse changes."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, Generic, NoReturn, TypeVar
from uuid import UUID, SafeUUID

__all__ = ["FrozenMapping", "text_of_uuid", "uuid7", "uuid_of_int"]

K = TypeVar("K")
V = TypeVar("V")

_new_object = object.__new__

_set_uuid_int = UUID.__dict__["int"].__set__
_UNKNOWN_SAFETY = SafeUUID.unknown
_set_uuid_is_safe = UUID.__dict__["is_safe"].__set__


def uuid_of_int(number: int) -> UUID:
    """Makes ``UUID(int=number)`` for a number of at most 128 bits, three times as fast."""
    made = _new_object(UUID)
    _set_uuid_int(made, number)
    _set_uuid_is_safe(made, _UNKNOWN_SAFETY)
    return made


def text_of_uuid(value: UUID) -> str:
    """Returns ``str(value)`` in two thirds of the time."""
    digits = value.int.to_bytes(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_VERSION_7: Final = 0x7 << 76 | 0x2 << 62
"""The bits of version and variant."""


def uuid7() -> UUID:
    """A time-ordered identifier of version 7 (RFC 9562, section 5.7).

    The 12 bits after the milliseconds hold the fraction of the millisecond (method 3 of section 6.2).
    Identifiers of one process sort by time to about a quarter of a microsecond. The other 62 bits are random,
    but not secret: do not use one as a token.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    return uuid_of_int(milliseconds << 80 | fraction << 64 | _VERSION_7 | random.getrandbits(62))


class FrozenMapping(dict[K, V], Generic[K, V]):
    """A dict that refuses changes. It can be copied, pickled and encoded like any dict."""

    __slots__ = ()

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("this mapping belongs to an immutable event; make a dict(...) of it to change a copy")

    if not TYPE_CHECKING:
        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[FrozenMapping[K, V]], tuple[dict[K, V]]]:
        return type(self), (dict(self),)

    def __copy__(self) -> FrozenMapping[K, V]:
        return self

    def __deepcopy__(self, _memo: object) -> FrozenMapping[K, V]:
        return self
