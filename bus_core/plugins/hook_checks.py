"""Checks plugins and the answers of their hooks, with messages for their authors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
import pluggy

from bus_core.abc import ChainRule, Command, Endpoint, Factory
from bus_core.errors import InvalidPlugin, suggestion
from bus_core.events.topics import TopicCatalogue, nearest_names
from bus_core.plugins.hookspecs import HOOK_VERSION, OLDEST_HOOK_VERSION, PROJECT

__all__ = ["HOOKS", "TOPICS_HOOK", "check_catalogues", "check_offers", "hook_faults", "version_fault"]

HOOKS: Final[Mapping[str, str]] = {
    "promenade_bus_adapters": "adapter",
    "promenade_bus_serializers": "serializer",
    "promenade_bus_retry_policies": "retry policy",
    "promenade_bus_middleware": "middleware",
    "promenade_bus_stores": "store",
    "promenade_bus_health_probes": "health probe",
    "promenade_bus_observers": "observer",
    "promenade_bus_commands": "command",
    "promenade_bus_endpoints": "endpoint",
    "promenade_bus_topics": "topics",
}
"""The hooks, and the kind of their offers. All but the topics hook return a mapping of names."""

TOPICS_HOOK: Final = "promenade_bus_topics"

VERSION_NAME: Final = "PROMENADE_BUS_HOOKS"
"""The name under which a plugin states the version of the hooks that it needs."""

_EXPECTED: Final[Mapping[str, type]] = {"command": Command, "endpoint": Endpoint}
"""The classes of offers by kind; other kinds offer a ``Factory``."""


def version_fault(plugin: object, core_version: str | None) -> str | None:
    """The reason why the stated version of the hooks does not fit; None when it fits, or none is stated."""
    stated: object = inspect.getattr_static(plugin, VERSION_NAME, None)
    if stated is None:
        return None
    core = f"promenade-bus {core_version or ''}".rstrip()
    if not isinstance(stated, int) or isinstance(stated, bool):
        return f"{VERSION_NAME} is {stated!r}, and must be a whole number; {core} has version {HOOK_VERSION}"
    if stated > HOOK_VERSION:
        remedy = "pip install --upgrade promenade-bus"
        return f"it needs version {stated} of the hooks, and {core} has version {HOOK_VERSION}: {remedy}"
    if stated < OLDEST_HOOK_VERSION:
        return (
            f"it was written for version {stated} of the hooks, and {core} has {OLDEST_HOOK_VERSION}"
            f" to {HOOK_VERSION}: install a newer version of the plugin"
        )
    return None


def hook_faults(manager: pluggy.PluginManager, plugin: object) -> Iterator[str]:
    """The faults of a plugin's functions, found before any of them is called."""
    implements_any = False
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            value = inspect.getattr_static(plugin, attribute, None)
            if not attribute.startswith(f"{PROJECT}_") or not inspect.isfunction(value):
                continue
            if hasattr(value, f"{PROJECT}_spec"):
                continue
            if attribute in HOOKS:
                yield f"{attribute!r} is not marked with @hookimpl"
            else:
                yield f"{attribute!r} is not a hook{_nearest_hook(attribute)}"
            implements_any = True
            continue
        implements_any = True
        hook = options.get("specname") or attribute
        if hook not in HOOKS:
            if not options.get("optionalhook"):
                yield f"{hook!r} is not a hook{_nearest_hook(hook)}"
        elif options.get("wrapper") or options.get("hookwrapper"):
            yield f"{hook!r} is a wrapper, but no plugin may change what others answer"
        elif inspect.iscoroutinefunction(getattr(plugin, attribute)):
            yield f"{hook!r} is async, but hooks are plain functions"
    if not implements_any:
        yield f"it has no function marked with @hookimpl (hooks are: {', '.join(HOOKS)})"


def _nearest_hook(name: str) -> str:
    # Compared without the common prefix, which would make all hooks similar.
    endings = [hook.removeprefix(f"{PROJECT}_") for hook in HOOKS]
    nearest = nearest_names(name.removeprefix(f"{PROJECT}_"), endings, limit=1)
    return suggestion([f"{PROJECT}_{ending}" for ending in nearest])


def check_offers(hook: str, answer: object) -> dict[str, Any]:
    """The answer of a hook that returns names; raises ``InvalidPlugin`` when it is of the wrong kind."""
    if not isinstance(answer, Mapping):
        raise InvalidPlugin(f"{hook}() returned {_kind_of(answer)}, not a mapping of names")
    expected = _EXPECTED.get(HOOKS[hook], Factory)
    for name, value in answer.items():
        if not isinstance(name, str) or not name:
            raise InvalidPlugin(f"{hook}() returned the name {name!r}, not a str that can be selected")
        if not isinstance(value, expected):
            raise InvalidPlugin(
                f"{hook}() offers {name!r} as {_kind_of(value)}, not a bus_core.abc.{expected.__name__}"
            )
        if isinstance(value, Command | Endpoint):
            _check_command(f"{hook}() offers {name!r} with", value)
        elif isinstance(value, Factory):
            _check_factory(f"{hook}() offers {name!r} with", value)
    return dict(answer)


def _check_command(what: str, command: Command | Endpoint) -> None:
    text: object = command.help
    load: object = command.load
    if not isinstance(text, str) or not text.strip() or "\n" in text:
        raise InvalidPlugin(f"{what} a 'help' that is no line of text: {text!r}")
    if not callable(load):
        raise InvalidPlugin(f"{what} a 'load' that cannot be called: {load!r}")
    many: object = command.load_many if isinstance(command, Endpoint) else None
    if many is not None and not callable(many):
        raise InvalidPlugin(f"{what} a 'load_many' that cannot be called: {many!r}")


def _check_factory(what: str, factory: Factory[Any, Any]) -> None:
    options: object = factory.options
    build: object = factory.build
    sections: object = factory.sections
    check: object = factory.check
    if not isinstance(options, type) or not attrs.has(options):
        raise InvalidPlugin(f"{what} options that are no attrs class: {options!r}")
    if not callable(build):
        raise InvalidPlugin(f"{what} a 'build' that cannot be called: {build!r}")
    if not isinstance(sections, tuple) or not all(isinstance(section, str) for section in sections):
        raise InvalidPlugin(f"{what} sections that are no tuple of str: {sections!r}")
    if check is not None and not callable(check):
        raise InvalidPlugin(f"{what} a 'check' that cannot be called: {check!r}")
    chains: object = factory.chains
    rules: object = factory.rules
    stores: object = factory.stores
    if not isinstance(chains, tuple) or not chains or not {*chains} <= {"consume", "publish"}:
        raise InvalidPlugin(f"{what} chains other than 'consume' and 'publish': {chains!r}")
    if not isinstance(rules, tuple) or not all(isinstance(rule, ChainRule) for rule in rules):
        raise InvalidPlugin(f"{what} rules that are no tuple of ChainRule: {rules!r}")
    if not isinstance(stores, tuple) or not {*stores} <= {field.name for field in attrs.fields(options)}:
        raise InvalidPlugin(f"{what} stores that are no tuple of options: {stores!r}")


def check_catalogues(answer: object) -> Sequence[TopicCatalogue]:
    """The answer of the hook for topics; raises ``InvalidPlugin`` when it is of the wrong kind."""
    if isinstance(answer, TopicCatalogue):
        raise InvalidPlugin(f"{TOPICS_HOOK}() returned one TopicCatalogue, not a list of them")
    if not isinstance(answer, list | tuple):
        raise InvalidPlugin(f"{TOPICS_HOOK}() returned {_kind_of(answer)}, not a list of TopicCatalogue")
    for item in answer:
        if not isinstance(item, TopicCatalogue):
            raise InvalidPlugin(f"{TOPICS_HOOK}() lists {_kind_of(item)}, not a TopicCatalogue")
    return answer


def _kind_of(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
