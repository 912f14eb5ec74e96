"""The configuration of a bus: the ``bus`` section of an application's file, read and checked.

The settings of a plugin are kept as a ``PluginChoice``: a name, the raw options, and their path.
``read_choice`` reads them once the plugin, and so its class of options, is known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final

import attrs

from bus_core.config.bus_settings import (
    BusSettings,
    not_blank,
)
from bus_core.config.choices import PluginChoice, without
from bus_core.config.faults import Fault, join_path, nearest_key, unknown_key
from bus_core.config.secrets import mask_tree
from bus_core.config.settings import read_fields, read_settings, render_settings
from bus_core.config.variables import ExpandedMapping, expand
from bus_core.errors import ConfigError
from bus_core.events.topic_index import TopicIndex
from bus_core.events.topics import TopicPattern

__all__ = ["BusConfig", "describe_config", "load_config", "read_config"]

FIRST_PARTY_ADAPTERS: Final = ("memory", "postgres", "redis", "sqlite")
"""Sections of these adapters are tolerated where they are not installed, so that one file serves laptop and
server.
"""

_RETRY_SHORT_FORM: Final = {
    "retry_attempts": "attempts",
    "retry_delay": "delay",
    "retry_max_delay": "max_delay",
    "retry_multiplier": "multiplier",
}


@attrs.frozen(kw_only=True)
class BusConfig(BusSettings):
    """A checked configuration: the settings of the bus, and the sections that belong to plugins.

    ``source`` is the name of the file, or ``<mapping>``. ``sections`` are the keys of ``bus`` that are not
    the bus's own, as they were written; ``document`` is the whole file, whose other sections belong to the
    application.
    """

    source: str = "<mapping>"
    sections: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    document: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)
    environ: Mapping[str, str] = attrs.field(factory=dict, repr=False, eq=False)

    def adapter_choice(self, name: str | None = None) -> PluginChoice:
        """The selected adapter, or the one of that name, with the options in its section.

        Raises ``ConfigError`` when the section is not a mapping or a variable in it is not set.
        """
        name = self.adapter if name is None else name
        path = join_path("$.bus", name)
        faults: list[str] = []
        section = _expanded_section(self.sections.get(name), path, faults, self.environ)
        if faults:
            raise ConfigError(self.source, faults)
        return PluginChoice(name, section or {}, path)

    def section(self, path: str) -> Mapping[str, Any] | None:
        """A foreign section such as ``database.redis``, its variables expanded; None when it is absent.

        Raises ``ConfigError`` when it is not a mapping or a variable in it is not set.
        """
        value: Any = self.document
        where = "$"
        for key in path.split("."):
            if not isinstance(value, Mapping):
                raise ConfigError(self.source, [Fault("expected a mapping", where)])
            where = join_path(where, key)
            value = value.get(key)
            if value is None:
                return None
        faults: list[str] = []
        section = _expanded_section(value, where, faults, self.environ)
        if faults:
            raise ConfigError(self.source, faults)
        return section

    def retry_for(self, topic: str) -> PluginChoice:
        """The retry policy of a topic: the most specific name or pattern that covers it, then the bus's.

        Where an entry names no policy, or the bus's own, its options go on top of the bus's options.
        """
        names = self._with_retry.matching(topic)
        if not names:
            return self.retry
        retry = self.topics[max(names, key=lambda name: TopicPattern(name).specificity)].retry
        return self.retry if retry is None else self._on_top(retry)

    @cached_property
    def _with_retry(self) -> TopicIndex[str]:
        """The names of the topics and patterns that have a retry policy."""
        index: TopicIndex[str] = TopicIndex()
        for name, settings in self.topics.items():
            if settings.retry is not None:
                index.add(name, name)
        return index

    def retry_choices(self) -> list[PluginChoice]:
        """Every choice that ``retry_for`` may return: the bus's own, and one for each entry of a topic."""
        entries = [settings.retry for settings in self.topics.values()]
        return [self.retry, *(self._on_top(retry) for retry in entries if retry is not None)]

    def _on_top(self, retry: PluginChoice) -> PluginChoice:
        """The choice of a topic's entry, with the options of the bus where it names no policy."""
        if retry.name not in ("", self.retry.name):
            return retry
        inherited = {
            key: join_path(self.retry.path, key) for key in self.retry.options if key not in retry.options
        }
        moved = {join_path(retry.path, key): self.retry.moved.get(at, at) for key, at in inherited.items()}
        options = without(self.retry.options, *retry.options)
        options.update(retry.options)
        options.texts.update(getattr(retry.options, "texts", {}))
        return PluginChoice(self.retry.name, options, retry.path, moved)

    def check_sections(self, known: Iterable[str]) -> list[str]:
        """The faults of sections without an owner, given the names of the installed adapters.

        Sections of adapters that are not selected are tolerated. Those of ``FIRST_PARTY_ADAPTERS`` are
        tolerated even where these adapters are not installed.
        """
        tolerated = {*known, *FIRST_PARTY_ADAPTERS, self.adapter}
        names = [*_KEYS, *sorted(tolerated - {""})]
        return [unknown_key(name, names, "$.bus") for name in self.sections if name not in tolerated]


_KEYS: Final = [field.name for field in attrs.fields(BusSettings)] + list(_RETRY_SHORT_FORM)


# --- loading ----------------------------------------------------------------------------------------------


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | BusConfig,
    *,
    environ: Mapping[str, str] | None = None,
) -> BusConfig:
    """The configuration of a file, or of an equivalent mapping: ``{"bus": {...}}``.

    ``environ`` has the variables for ``${NAME}``; by default those of the process. Raises ``ConfigError``
    with all faults together.
    """
    config, faults = read_config(source, environ=environ)
    if faults:
        raise ConfigError(config.source, faults)
    return config


def read_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | BusConfig,
    *,
    environ: Mapping[str, str] | None = None,
) -> tuple[BusConfig, list[str]]:
    """Reads like ``load_config``, for callers that look for more faults: faulty keys get their default.

    Raises ``ConfigError`` only when there is nothing to check: no file, no YAML, no ``bus`` section.
    """
    if isinstance(source, BusConfig):
        return source, []
    name = "<mapping>" if isinstance(source, Mapping) else os.fspath(source)
    document = source if isinstance(source, Mapping) else _content_of(source)
    environ = os.environ if environ is None else environ
    _require_bus(document, name)
    faults: list[str] = []
    raw = document["bus"]
    own, sections = _split(raw if isinstance(raw, Mapping) else {}, faults)
    if raw is not None and not isinstance(raw, Mapping):
        faults.append(Fault("expected a mapping", "$.bus"))
    expanded: Mapping[str, Any] = _expanded_section(own, "$.bus", faults, environ) or {}
    values = read_fields(
        BusSettings, _fold_retry(expanded, faults), "$.bus", faults, also_known=_RETRY_SHORT_FORM
    )
    if "service" not in own:
        values |= _service(document.get("app"), faults, environ)
    config = BusConfig(**values, source=name, sections=sections, document=document, environ=environ)
    for selected in {config.adapter: None, config.fallback or "": None}:
        if isinstance(sections.get(selected), Mapping):
            _expanded_section(sections[selected], join_path("$.bus", selected), faults, environ)
    return config, faults


# PyYAML takes a sixth of the time in which a bus opens, so it is imported only for YAML.


def _content_of(path: str | os.PathLike[str]) -> Any:
    from bus_core.config.yaml_file import load_yaml_file

    return load_yaml_file(path, plain_section="bus")


def _read_scalar(text: str) -> Any:
    from bus_core.config.yaml_file import read_scalar

    return read_scalar(text)


def describe_config(config: BusConfig) -> dict[str, Any]:
    """The effective configuration as plain data, secrets masked, in the shape of the file."""
    settings = {field.name: getattr(config, field.name) for field in attrs.fields(BusSettings)}
    return {"bus": {**render_settings(BusSettings(**settings)), **mask_tree(config.sections)}}


def _require_bus(document: Any, source: str) -> None:
    if not isinstance(document, Mapping):
        what = "nothing but comments" if document is None else f"a {type(document).__name__} at the top"
        raise ConfigError(source, [f"the file holds {what}; it needs sections, one of them 'bus:'"])
    if "bus" in document:
        return
    if "adapter" in document:
        raise ConfigError(
            source, ["there is no 'bus' section; put the keys under 'bus:', as in {bus: {adapter: ...}}"]
        )
    found = ", ".join(repr(key) for key in document) or "none"
    raise ConfigError(
        source, [f"there is no 'bus' section; add one, as in 'bus: {{adapter: memory}}' (found: {found})"]
    )


def _split(raw: Mapping[Any, Any], faults: list[str]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The bus's own keys, and the mappings under other keys, which may be sections of plugins."""
    sections: dict[str, Any] = {}
    own: dict[Any, Any] = {}
    adapters = (*FIRST_PARTY_ADAPTERS, raw.get("adapter"))
    for key, value in raw.items():
        if not isinstance(key, str) or key in _KEYS:
            own[key] = value
        elif key in adapters or (isinstance(value, Mapping | None) and not nearest_key(key, _KEYS)):
            sections[key] = value
        else:
            own[key] = value
    for key, value in sections.items():
        if value is not None and not isinstance(value, Mapping):
            faults.append(Fault("expected a mapping", join_path("$.bus", key)))
    return own, sections


def _expanded_section(
    raw: Any, path: str, faults: list[str], environ: Mapping[str, str]
) -> ExpandedMapping | None:
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        faults.append(Fault("expected a mapping", path))
        return None
    expanded = expand(raw, path, faults, environ=environ, read_scalar=_read_scalar)
    return expanded if isinstance(expanded, ExpandedMapping) else None


def _fold_retry(own: Mapping[str, Any], faults: list[str]) -> Mapping[str, Any]:
    """Turns ``retry_attempts`` and the like into the long form, and keeps their paths."""
    short = {key: option for key, option in _RETRY_SHORT_FORM.items() if key in own}
    if not short:
        return own
    rest = without(own, *short)
    if "retry" in own:
        faults.append(Fault(f"{', '.join(short)} and 'retry' say the same thing; keep one of them", "$.bus"))
        return rest
    options = ExpandedMapping()
    texts = getattr(own, "texts", {})
    for key, option in short.items():
        options[option] = own[key]
        if key in texts:
            options.texts[option] = texts[key]
    moved = {f"$.bus.retry.{option}": f"$.bus.{key}" for key, option in short.items()}
    rest["retry"] = PluginChoice("exponential", options, "$.bus.retry", moved)
    return rest


def _service(app: Any, faults: list[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The name of the application, as the name of the service. The rest of its section is ignored."""
    if app is not None and not isinstance(app, Mapping):
        faults.append(Fault("expected a mapping", "$.app"))
    if not isinstance(app, Mapping) or app.get("name") is None:
        return {}
    section = _expanded_section({"name": app["name"]}, "$.app", faults, environ)
    settings = read_settings(_App, section, "$.app", faults)
    return {} if settings is None else {"service": settings.name}


@attrs.frozen
class _App:
    name: str = attrs.field(validator=not_blank)
