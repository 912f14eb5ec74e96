"""A faster serializer for Promenade Bus: the same CloudEvents JSON as the built-in one, with msgspec."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, Serializer, hookimpl

if typing.TYPE_CHECKING:
    from bus_core.serialization import JsonOptions

__all__ = ["promenade_bus_serializers"]


def _build(options: JsonOptions, context: BuildContext) -> Serializer:
    from promenade_bus_msgspec.serializer import MsgspecSerializer

    return MsgspecSerializer(options)


@hookimpl
def promenade_bus_serializers() -> Mapping[str, Factory[typing.Any, Serializer]]:
    """Returns the serializer ``msgspec``."""
    from bus_core.serialization import JsonOptions

    return {"msgspec": Factory(options=JsonOptions, build=_build)}
