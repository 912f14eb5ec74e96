"""The keys of the ``bus`` section, as typed settings with their defaults and rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import attrs

from bus_core.config.choices import Name, Names, PluginChoice, Retry, TopicRetry, read_names
from bus_core.config.faults import Fault, join_path, unknown_key
from bus_core.config.settings import read_settings, render_settings
from bus_core.config.values import DURATION, Reader
from bus_core.errors import InvalidTopic
from bus_core.events.topics import TopicPattern

__all__ = [
    "BusSettings",
    "HealthSettings",
    "MiddlewareSettings",
    "PluginSettings",
    "TopicSettings",
    "not_blank",
]


def not_blank(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    """A validator of names that people choose freely; raises ``ValueError``."""
    if not value.strip() or not value.isprintable() or len(value) > 100:
        raise ValueError(f"{attribute.name} must be 1 to 100 printable characters")


@attrs.frozen(kw_only=True)
class MiddlewareSettings:
    """The middleware chains around handlers and around publishing, the outermost first."""

    consume: Names = ()
    publish: Names = ()


def _check_probes(_instance: object, _attribute: object, value: tuple[PluginChoice, ...]) -> None:
    names = [choice.name for choice in value]
    if "bus" in names:
        raise ValueError("no probe can be named 'bus': 'bus' is the bus's own check")
    _check_listed_once("probe", names)


def _check_observers(_instance: object, _attribute: object, value: tuple[PluginChoice, ...]) -> None:
    _check_listed_once("observer", [choice.name for choice in value])


def _check_listed_once(kind: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the {kind} {name!r} is listed {names.count(name)} times")


@attrs.frozen(kw_only=True)
class HealthSettings:
    """The probes to run, and the seconds that all of them together may take."""

    probes: Names = attrs.field(default=(), validator=_check_probes)
    timeout: Annotated[float, DURATION] = attrs.field(default=1.0, validator=attrs.validators.gt(0))


@attrs.frozen(kw_only=True)
class PluginSettings:
    """The installed plugins to leave out (``disable``), or the only ones to load (``only``)."""

    disable: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None


@attrs.frozen(kw_only=True)
class TopicSettings:
    """Settings of the topics that a name or a pattern covers."""

    retry: TopicRetry | None = None


def _read_middleware(value: Any, path: str, faults: list[str]) -> MiddlewareSettings | None:
    """Reads ``{consume: [...], publish: [...]}``; a bare list means consume."""
    if isinstance(value, list | tuple):
        return MiddlewareSettings(consume=read_names(value, path, faults))
    return read_settings(MiddlewareSettings, value, path, faults)


def _read_topics(value: Any, path: str, faults: list[str]) -> Mapping[str, TopicSettings]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        faults.append(Fault("expected a mapping from topics or patterns to their settings", path))
        return {}
    topics: dict[str, TopicSettings] = {}
    for name, raw in value.items():
        where = join_path(path, name)
        if not isinstance(name, str):
            faults.append(unknown_key(name, (), path))
            continue
        try:
            TopicPattern(name)
        except InvalidTopic as error:
            faults.append(Fault(str(error), path))
            continue
        settings = read_settings(TopicSettings, raw, where, faults)
        if settings is not None:
            topics[name] = settings
    return topics


def _render_topics(topics: Mapping[str, TopicSettings]) -> dict[str, Any]:
    return {name: render_settings(settings) for name, settings in topics.items()}


_Middleware = Annotated[MiddlewareSettings, Reader(_read_middleware, render_settings)]
_Topics = Annotated[Mapping[str, TopicSettings], Reader(_read_topics, _render_topics)]


_EXPONENTIAL: Final = PluginChoice("exponential", {}, "$.bus.retry")
_JSON: Final = PluginChoice("json", {}, "$.bus.serializer")


@attrs.frozen(kw_only=True)
class BusSettings:
    """The keys of the ``bus`` section.

    Times are seconds; the file may also have durations such as ``1h30m``.
    """

    adapter: str = ""
    service: str = attrs.field(default="promenade", validator=not_blank)
    worker_pool_size: int = attrs.field(default=10, validator=attrs.validators.ge(1))
    buffer_size: int = attrs.field(default=1_000, validator=attrs.validators.ge(1))
    overflow_size: int = attrs.field(default=100_000, validator=attrs.validators.ge(0))
    publish_timeout: Annotated[float, DURATION] = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    shutdown_timeout: Annotated[float, DURATION] = 30.0
    unknown_version_wait: Annotated[float, DURATION] = 600.0
    tracebacks: bool = False
    retry: Retry = _EXPONENTIAL
    serializer: Name = _JSON
    strict_topics: bool = True
    fallback: Literal["memory"] | None = None
    middleware: _Middleware = MiddlewareSettings()
    health: HealthSettings = HealthSettings()
    observers: Names = attrs.field(default=(), validator=_check_observers)
    plugins: PluginSettings = PluginSettings()
    topics: _Topics = attrs.field(factory=dict)
