"""Discovery: finds plugins and their offers, and the reasons why a plugin cannot be used.

Every plugin is loaded and asked on its own. If it fails, it is quarantined with its cause. This affects
others only when the configuration selects a name that the plugin could offer. The result does not depend on
the order in which plugins are installed, listed or called.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

import attrs
import pluggy

from bus_core.errors import InvalidPlugin, suggestion
from bus_core.events.topics import TopicCatalogue, nearest_names
from bus_core.plugins import builtins, hookspecs
from bus_core.plugins.entry_points import EntryPoint, accepts, installed_entry_points, version_of
from bus_core.plugins.hook_checks import (
    HOOKS,
    TOPICS_HOOK,
    check_catalogues,
    check_offers,
    hook_faults,
    version_fault,
)
from bus_core.plugins.hookspecs import PROJECT
from bus_core.plugins.registries import Finding, InstalledPlugin, NamedRegistry, Offer, Plugins

__all__ = ["discover"]

CORE_DISTRIBUTION: Final = "promenade-bus"
SWITCH: Final = "PROMENADE_BUS_PLUGINS"


def discover(
    *,
    disable: Iterable[str] = (),
    only: Iterable[str] | None = None,
    extra: Iterable[object] = (),
    installed: bool = True,
    environ: Mapping[str, str] | None = None,
    kinds: Collection[str] | None = None,
) -> Plugins:
    """Finds every plugin and asks it once for all that it offers.

    ``disable`` and ``only`` hold names of entry points or distributions; what they exclude is not
    imported. ``extra`` holds plugins that are not installed: modules, or objects with functions marked
    by ``hookimpl``. With ``PROMENADE_BUS_PLUGINS=off`` in the environment no entry point is loaded, and
    without ``installed`` none is even looked for.

    ``kinds`` are the only kinds of offers that plugins are asked for: ``adapter``, ``command`` and the other
    kinds of the registries, and ``topics``. The list of commands needs no topic, and no plugin need import
    its events for it.

    A broken entry point is quarantined. Raises ``InvalidPlugin`` for a broken one among ``extra``.
    """
    search = _Discovery(kinds)
    search.ask(
        builtins,
        InstalledPlugin(
            name="builtins",
            distribution=CORE_DISTRIBUTION,
            version=search.core_version,
            module="bus_core.plugins.builtins",
        ),
    )
    if installed:
        search.entry_points(frozenset(disable), None if only is None else frozenset(only), environ)
    for plugin in extra:
        search.given_in_code(plugin)
    return search.result()


class _Discovery:
    """One discovery in progress: a plugin manager, and the results so far."""

    def __init__(self, kinds: Collection[str] | None) -> None:
        unknown = sorted({*(kinds or ())} - {*HOOKS.values()})
        if unknown:
            raise ValueError(f"no plugin offers a {unknown[0]!r}; kinds are: {', '.join(HOOKS.values())}")
        self._hooks = [hook for hook, kind in HOOKS.items() if kinds is None or kind in kinds]
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._plugins: list[object] = []
        self._installed: list[InstalledPlugin] = []
        self._offers: dict[str, dict[str, list[Offer[Any]]]] = {kind: {} for kind in HOOKS.values()}
        self._catalogues: list[tuple[TopicCatalogue, str]] = []
        self._topic_origins: dict[str, str] = {}
        self._notes: list[Finding] = []
        self.core_version = version_of(CORE_DISTRIBUTION)

    def entry_points(
        self, disable: frozenset[str], only: frozenset[str] | None, environ: Mapping[str, str] | None
    ) -> None:
        switch = (os.environ if environ is None else environ).get(SWITCH, "").strip()
        if switch.lower() not in ("", "on", "off"):
            self._note(
                SWITCH,
                f"{SWITCH}={switch} means nothing, so plugins are loaded",
                "set it to 'off' or unset it",
            )
        seen: set[str] = set()
        entries, unreadable = installed_entry_points()
        for where, error in sorted(unreadable.items()):
            self._note(where, f"unreadable metadata: {_cause(error)}", "remove or reinstall it")
        for entry in entries:
            plugin = InstalledPlugin(
                name=entry.name,
                distribution=entry.distribution,
                version=entry.version,
                module=entry.value,
            )
            names = {entry.name, entry.distribution}
            seen |= names
            if switch.lower() == "off":
                self._quarantine(plugin, f"{SWITCH}=off")
            elif disable & names:
                self._quarantine(plugin, "listed under 'bus.plugins.disable'")
            elif only is not None and not only & names:
                self._quarantine(plugin, "not listed under 'bus.plugins.only'")
            else:
                self._check_version(plugin, entry.requires)
                self._load(entry, plugin)
        for setting, listed in (("disable", disable), ("only", only or frozenset())):
            for name in sorted(listed - seen):
                self._note(
                    name,
                    f"'bus.plugins.{setting}' names {name!r}, which is not installed"
                    + suggestion(nearest_names(name, sorted(seen))),
                    "remove the name, or correct it",
                )

    def given_in_code(self, plugin: object) -> None:
        if any(plugin is other for other in self._plugins):
            return  # it is installed as well, or given twice
        described = InstalledPlugin(
            name=_name_of(plugin), distribution=None, version=None, module=_name_of(plugin)
        )
        try:
            self.ask(plugin, described)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise InvalidPlugin(f"the plugin {described.module} cannot be used: {_cause(error)}") from error

    def ask(self, plugin: object, described: InstalledPlugin) -> None:
        """Calls the hooks of one plugin and keeps all of its offers, or none when one raises."""
        # The number distinguishes two objects of one class.
        name = f"{described.origin}:{described.name}:{len(self._plugins)}"
        self._register(plugin, described, name)
        try:
            self._collect(plugin, described)
        except BaseException:
            self._manager.unregister(name=name)
            raise

    def _collect(self, plugin: object, described: InstalledPlugin) -> None:
        offers: list[Offer[Any]] = []
        catalogues: list[TopicCatalogue] = []
        for hook in self._hooks:
            for implementation in getattr(self._manager.hook, hook).get_hookimpls():
                if implementation.plugin is not plugin:
                    continue
                answer = implementation.function()
                if hook == TOPICS_HOOK:
                    catalogues.extend(check_catalogues(answer))
                else:
                    kind = HOOKS[hook]
                    for name, value in check_offers(hook, answer).items():
                        offers.append(Offer(kind, name, value, described.origin))
        self._check_topics(catalogues)
        for offer in offers:
            self._offers[offer.kind].setdefault(offer.name, []).append(offer)
        for catalogue in catalogues:
            self._catalogues.append((catalogue, described.origin))
            self._topic_origins.update((topic.name, described.origin) for topic in catalogue)
        names = [(offer.kind, offer.name) for offer in offers]
        names += [(HOOKS[TOPICS_HOOK], catalogue.context) for catalogue in catalogues]
        self._plugins.append(plugin)
        self._installed.append(attrs.evolve(described, offers=tuple(sorted(names))))

    def result(self) -> Plugins:
        installed = tuple(self._installed)

        def registry(kind: str) -> NamedRegistry[Any]:
            offers = {
                name: tuple(sorted(found, key=lambda offer: offer.origin))
                for name, found in self._offers[kind].items()
            }
            return NamedRegistry(kind, offers, installed)

        return Plugins(
            installed=installed,
            adapters=registry("adapter"),
            serializers=registry("serializer"),
            retry_policies=registry("retry policy"),
            middleware=registry("middleware"),
            stores=registry("store"),
            health_probes=registry("health probe"),
            observers=registry("observer"),
            commands=registry("command"),
            endpoints=registry("endpoint"),
            catalogues=tuple(sorted(self._catalogues, key=lambda found: (found[0].context, found[1]))),
            notes=tuple(self._notes),
        )

    # --- entry points ---

    def _load(self, entry: EntryPoint, described: InstalledPlugin) -> None:
        try:
            self.ask(entry.load(), described)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin must not end the application, not even by SystemExit
            self._installed.append(
                attrs.evolve(described, status="quarantined", cause=_cause(error), error=error)
            )

    def _quarantine(self, plugin: InstalledPlugin, cause: str) -> None:
        self._installed.append(attrs.evolve(plugin, status="disabled", cause=cause))

    def _check_version(self, plugin: InstalledPlugin, requires: Iterable[str]) -> None:
        if self.core_version is None:
            return
        for requirement in requires:
            if not accepts(requirement, self.core_version):
                self._note(
                    f"{plugin.name} ({plugin.origin})",
                    f"it requires {requirement}, but {CORE_DISTRIBUTION} {self.core_version} is installed",
                    f"pip install --upgrade {CORE_DISTRIBUTION} {plugin.distribution}",
                )

    def _note(self, plugin: str, what: str, what_to_do: str) -> None:
        self._notes.append(Finding("warning", plugin, what, what_to_do))

    # --- one plugin ---

    def _register(self, plugin: object, described: InstalledPlugin, name: str) -> None:
        if isinstance(plugin, type):
            raise InvalidPlugin("it is a class; give an instance of it, or a module")
        if fault := version_fault(plugin, self.core_version):
            raise InvalidPlugin(fault)
        faults = list(hook_faults(self._manager, plugin))
        if faults:
            raise InvalidPlugin("; ".join(faults))
        try:
            self._manager.register(plugin, name=name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise InvalidPlugin(" ".join(str(error).split())) from error

    def _check_topics(self, catalogues: Sequence[TopicCatalogue]) -> None:
        origins = dict(self._topic_origins)
        taken: list[str] = []
        for catalogue in catalogues:
            for topic in catalogue:
                if topic.name in origins:
                    taken.append(f"topic {topic.name!r} is already declared by {origins[topic.name]}")
                origins[topic.name] = f"its catalogue of {catalogue.context!r}"
        if taken:
            raise InvalidPlugin("; ".join(taken) + "; one context owns a topic")


def _name_of(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return f"{cls.__module__}.{cls.__qualname__}"


def _cause(error: BaseException) -> str:
    """The cause of a failure, in one line."""
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be shown)"
    text = " ".join(text.split())
    if len(text) > 500:
        text = text[:500] + "..."
    if type(error) is InvalidPlugin:
        return text  # errors of this module need no class name
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
