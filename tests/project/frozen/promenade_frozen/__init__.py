"""A plugin of the time of promenade-bus 0.1, with every hook of version 1. It is never edited."""

from collections.abc import Mapping, Sequence
from typing import Any

from bus_core import Command, Endpoint, Factory, TopicCatalogue, hookimpl

__all__: list[str] = []

PROMENADE_BUS_HOOKS = 1


@hookimpl
def promenade_bus_adapters() -> Mapping[str, Factory[Any, Any]]:
    from promenade_frozen.adapter import ADAPTER

    return {"frozen": ADAPTER}


@hookimpl
def promenade_bus_serializers() -> Mapping[str, Factory[Any, Any]]:
    from promenade_frozen.parts import SERIALIZER

    return {"frozen": SERIALIZER}


@hookimpl
def promenade_bus_retry_policies() -> Mapping[str, Factory[Any, Any]]:
    from promenade_frozen.parts import RETRY_POLICY

    return {"frozen": RETRY_POLICY}


@hookimpl
def promenade_bus_middleware() -> Mapping[str, Factory[Any, Any]]:
    from promenade_frozen.parts import COUNTING, ONCE

    return {"frozen-counting": COUNTING, "frozen-once": ONCE}


@hookimpl
def promenade_bus_stores() -> Mapping[str, Factory[Any, Any]]:
    from promenade_frozen.parts import STORE

    return {"frozen": STORE}


@hookimpl
def promenade_bus_topics() -> Sequence[TopicCatalogue]:
    from promenade_frozen.events import CATALOGUE

    return [CATALOGUE]


@hookimpl
def promenade_bus_health_probes() -> Mapping[str, Factory[Any, Any]]:
    from promenade_frozen.parts import PROBE

    return {"frozen": PROBE}


@hookimpl
def promenade_bus_observers() -> Mapping[str, Factory[Any, Any]]:
    from promenade_frozen.parts import OBSERVER

    return {"frozen": OBSERVER}


@hookimpl
def promenade_bus_endpoints() -> Mapping[str, Endpoint]:
    from promenade_frozen.parts import ENDPOINT

    return {"frozen": ENDPOINT}


@hookimpl
def promenade_bus_commands() -> Mapping[str, Command]:
    from promenade_frozen.parts import COMMAND

    return {"frozen": COMMAND}
