"""A serializer for Promenade Bus that writes Apache Avro: CloudEvents in containers with their schema."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from bus_core import BuildContext, Factory, Serializer, hookimpl

if typing.TYPE_CHECKING:
    from promenade_bus_avro.options import AvroOptions

__all__ = ["promenade_bus_serializers"]


def _build(options: AvroOptions, context: BuildContext) -> Serializer:
    from promenade_bus_avro.serializer import AvroSerializer

    return AvroSerializer(options)


@hookimpl
def promenade_bus_serializers() -> Mapping[str, Factory[typing.Any, Serializer]]:
    """Returns the serializer ``avro``."""
    from promenade_bus_avro.options import AvroOptions

    return {"avro": Factory(options=AvroOptions, build=_build)}
