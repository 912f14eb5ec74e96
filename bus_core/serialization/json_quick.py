"""Reads values that are as they should be, without a word for those that are not.

Next to what reads a value thoroughly, and says what is wrong with it, may stand what reads it quickly.
Whatever that raises means: odd. Then everything is read thoroughly, once, from the outermost value on.
Reading quickly does not begin again inside of a value: what is wrong deep inside would be looked for twice
as often with each level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from bus_core.serialization.json_values import read_bool, read_int, read_str

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

Field = tuple[str, str, Any, Load, Any]
"""Of a field: its key, the constructor's argument, its type, what reads it, and its default.

The default is one of attrs: a value, a ``Factory``, or ``NOTHING`` where the field is required.
"""

Around = tuple["QuickRecord", ...]
"""The classes that are being compiled, the outermost first."""

Make = Callable[[Any, Around], Quick]
"""Makes what reads values of a type quickly."""

_OFFER: Final = "_promenade_quick"

_INLINE: Final[dict[Any, type[Any]]] = {read_str: str, read_bool: bool, read_int: int}
"""What only asks for the class of a value: that is done in place."""


_MISSING: Final = object()


class Odd(ValueError):
    """A value is not as it should be."""


def offer_quick(load: Load, make: Make) -> Load:
    """Puts beside ``load`` what makes its quick counterpart. Returns ``load``."""
    setattr(load, _OFFER, (load, make))
    return load


def quick_of(load: Load, hint: Any, around: Around) -> Quick:
    """The quick counterpart of ``load``; one that calls it, where there is none."""
    offer = getattr(load, _OFFER, None)
    if type(offer) is tuple and offer[0] is load:  # not one that a wrapper has copied together with the rest
        make: Make = offer[1]
        return make(hint, around)
    return lambda value: load(value, hint)


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
    """A function that makes a value of ``cls`` of a JSON object.

    What is ``also`` an argument of the constructor is one of the function, too. It is compiled from text, as
    attrs does with its methods: a loop over the fields takes three times as long.
    """
    names: dict[str, Any] = {"cls": cls, "Odd": Odd, "missing": _MISSING}
    lines = [
        f"def read({', '.join(['data', *also])}):",
        "    if data.__class__ is not dict:",
        "        raise Odd",
    ]
    arguments = [f"{name}={name}" for name in also]
    for index, (key, argument, hint, load, default) in enumerate(fields):
        value = f"value{index}"
        read = quick_of(load, hint, around)
        exact = _INLINE.get(read)
        if exact is None:
            names[f"read{index}"] = read
            reading = [f"{value} = read{index}({value})"]
        else:
            names[f"type{index}"] = exact
            reading = [f"if {value}.__class__ is not type{index}:", "    raise Odd"]
        absent = _default_text(default, f"default{index}", names)
        if absent is None:
            lines.append(f"    {value} = data[{key!r}]")
            lines += [f"    {line}" for line in reading]
        else:
            lines += [f"    {value} = data.get({key!r}, missing)", f"    if {value} is missing:"]
            lines += [f"        {value} = {absent}", "    else:"]
            lines += [f"        {line}" for line in reading]
        arguments.append(f"{argument}={value}")
    lines.append(f"    return cls({', '.join(arguments)})")
    exec("\n".join(lines), names)
    made: Callable[..., Any] = names["read"]
    return made


def _default_text(default: Any, name: str, names: dict[str, Any]) -> str | None:
    """What gives the default of a field, under that name; None where it has to be in the object."""
    if default is attrs.NOTHING or getattr(default, "takes_self", False):
        return None
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        names[name] = default.factory
        return f"{name}()"
    names[name] = default
    return name
