"""Reads values that are as they should be, without a word for those that are not.

Next to what reads a value thoroughly, and says what is wrong with it, may stand what reads it quickly.
Whatever that raises means: odd. Then everything is read thoroughly, once, from the outermost value on.
Reading quickly does not begin again inside of a value: what is wrong deep inside would be looked for twice
as often with each level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from bus_core.json_values import read_bool, read_int, read_str

__all__ = [
    "Around",
    "Field",
    "Load",
    "Odd",
    "Quick",
    "QuickRecord",
    "compile_quick",
    "offer_quick",
    "quick_of",
]

Load = Callable[[Any, Any], Any]
"""Makes a value of what JSON holds; raises ``Unfit``. Gets the type as well, as hooks of cattrs do."""

Quick = Callable[[Any], Any]
"""Makes the same value, or raises anything."""

Field = tuple[str, str, Any, Load, bool]
"""Of a field: its key, the constructor's argument, its type, what reads it, and whether it is required."""

Around = tuple["QuickRecord", ...]
"""The classes that are being compiled, the outermost first."""

Make = Callable[[Any, Around], Quick]
"""Makes what reads values of a type quickly."""

_OFFER: Final = "_promenade_quick"

_INLINE: Final[dict[Any, type[Any]]] = {read_str: str, read_bool: bool, read_int: int}
"""What only asks for the class of a value: that is done in place."""


class Odd(ValueError):
    """A value is not as it should be."""


def offer_quick(load: Load, make: Make) -> Load:
    """Puts beside ``load`` what makes its quick counterpart. Returns ``load``."""
    setattr(load, _OFFER, make)
    return load


def quick_of(load: Load, hint: Any, around: Around) -> Quick:
    """The quick counterpart of ``load``; one that calls it, where there is none."""
    make: Make | None = getattr(load, _OFFER, None)
    return (lambda value: load(value, hint)) if make is None else make(hint, around)


class QuickRecord:
    """Reads values of a class with named fields. Compiled late: its fields may not be known at first."""

    def __init__(self, cls: type[Any], fields: Iterable[Field]) -> None:
        self._cls = cls
        self._fields = fields
        self._read: Quick | None = None

    def compiled(self, around: Around) -> Quick:
        """What reads a value; this object, in a class that contains itself."""
        if self in around:
            return self
        if self._read is None:
            self._read = compile_quick(self._cls, self._fields, (*around, self))
        return self._read

    def __call__(self, value: Any) -> Any:
        return self.compiled(())(value)


def compile_quick(
    cls: type[Any], fields: Iterable[Field], around: Around = (), *, also: Iterable[str] = ()
) -> Callable[..., Any]:
    """A function that makes a value of ``cls`` of a JSON object that has all of these fields.

    What is ``also`` an argument of the constructor is one of the function, too. It is compiled from text, as
    attrs does with its methods: a loop over the fields takes three times as long.
    """
    names: dict[str, Any] = {"cls": cls, "Odd": Odd}
    lines = [
        f"def read({', '.join(['data', *also])}):",
        "    if data.__class__ is not dict:",
        "        raise Odd",
    ]
    arguments = [f"{name}={name}" for name in also]
    for index, (key, argument, hint, load, _required) in enumerate(fields):
        read = quick_of(load, hint, around)
        exact = _INLINE.get(read)
        if exact is None:
            names[f"read{index}"] = read
            lines.append(f"    value{index} = read{index}(data[{key!r}])")
        else:
            names[f"type{index}"] = exact
            lines.append(f"    value{index} = data[{key!r}]")
            lines.append(f"    if value{index}.__class__ is not type{index}:")
            lines.append("        raise Odd")
        arguments.append(f"{argument}=value{index}")
    lines.append(f"    return cls({', '.join(arguments)})")
    exec("\n".join(lines), names)
    made: Callable[..., Any] = names["read"]
    return made
