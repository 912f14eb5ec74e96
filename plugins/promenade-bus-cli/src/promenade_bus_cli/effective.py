"""The effective configuration: every default filled in, secrets hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bus_core import BusConfig, ConfigError
from bus_core.config import PluginChoice, describe_config, mask_tree, read_choice, render_settings
from bus_core.errors import PluginError
from bus_core.plugins import NamedRegistry, Plugins, discover

__all__ = ["effective_config", "effective_options"]


def effective_options(registry: NamedRegistry[Any], choice: PluginChoice) -> dict[str, Any]:
    """Returns the options as the plugin reads them, or as written when the plugin rejects them."""
    try:
        options = read_choice(registry.select(choice.name).value.options, choice, [])
    except PluginError:
        options = None
    shown: dict[str, Any] = mask_tree(dict(choice.options)) if options is None else render_settings(options)
    return shown


def effective_config(config: BusConfig) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """Returns the configuration as plain data, in the shape of the file.

    It has the ``bus`` section, and the sections outside of it that the adapters read. Their names are the
    second result, by the name of the adapter.
    """
    plugins = discover(disable=config.plugins.disable, only=config.plugins.only)
    described: dict[str, Any] = _plain(describe_config(config))
    bus: dict[str, Any] = described["bus"]
    bus["retry"] = {"policy": config.retry.name, **effective_options(plugins.retry_policies, config.retry)}
    bus["serializer"] = _named(plugins.serializers, config.serializer)
    for direction in ("consume", "publish"):
        choices: Sequence[PluginChoice] = getattr(config.middleware, direction)
        bus["middleware"][direction] = [_named(plugins.middleware, choice) for choice in choices]
    bus["health"]["probes"] = [_named(plugins.health_probes, choice) for choice in config.health.probes]
    bus["observers"] = [_named(plugins.observers, choice) for choice in config.observers]
    foreign = _fill_in_adapters(config, plugins, bus)
    for section in {name: None for names in foreign.values() for name in names}:
        _fill_in_section(config, section, described)
    return _plain(described), foreign


def _named(registry: NamedRegistry[Any], choice: PluginChoice) -> Any:
    options = effective_options(registry, choice)
    return {choice.name: options} if options else choice.name


def _fill_in_section(config: BusConfig, section: str, described: dict[str, Any]) -> None:
    """Adds a section outside of ``bus``, if the file has it."""
    value = config.section(section)
    if value is None:
        return
    *parents, last = section.split(".")
    inner = described
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = mask_tree(value)


def _fill_in_adapters(config: BusConfig, plugins: Plugins, bus: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Adds the options of the selected adapters. Returns the sections outside of ``bus`` that they read."""
    foreign: dict[str, tuple[str, ...]] = {}
    for name in filter(None, (config.adapter, config.fallback)):
        try:
            choice = config.adapter_choice(name)
            foreign[name] = plugins.adapters.select(name).value.sections
        except (ConfigError, PluginError):
            continue
        options = effective_options(plugins.adapters, choice)
        if options:
            bus[name] = options
    return foreign


def _plain(value: Any) -> Any:
    """Copies into plain dicts, lists and strings, which every writer supports."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value) if type(value) is str else repr(value)
