"""``open_bus``: the only place that joins configuration, plugins and the bus."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from bus_core.abc import (
    AnyAdapter,
    BuildContext,
    Factory,
    HealthProbe,
    Middleware,
    Observer,
    RetryPolicy,
    Store,
)
from bus_core.bus.bus import Bus
from bus_core.bus.parts import BusParts
from bus_core.bus.sync import SyncBus
from bus_core.bus.watching import store_checks, watched_of
from bus_core.config.bus_config import BusConfig, read_config
from bus_core.config.choices import PluginChoice, read_choice
from bus_core.config.faults import Fault, join_path
from bus_core.dispatch.codec import Codec
from bus_core.errors import BusError, ConfigError, PluginError
from bus_core.events.topics import TopicRegistry
from bus_core.plugins.discovery import discover
from bus_core.plugins.registries import NamedRegistry, Offer, Plugins
from bus_core.runtime.clock import Clock
from bus_core.runtime.error_text import describe_error
from bus_core.runtime.system_clock import SystemClock

__all__ = ["check_config", "open_bus", "open_sync_bus"]

T = TypeVar("T")

ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | BusConfig


def open_bus(
    config: ConfigSource,
    *,
    plugins: Iterable[object] = (),
    installed: bool = True,
    clock: Clock | None = None,
    environ: Mapping[str, str] | None = None,
) -> Bus:
    """A bus, not started yet, from a configuration file, a mapping like one, or a ``BusConfig``.

    ``plugins`` adds plugins that are not installed: modules, or objects with functions marked by
    ``hookimpl``. Without ``installed`` there are no others: installed ones are not even looked for, which
    takes most of the time of opening a bus. ``clock`` replaces the system's clock. Both are for tests.
    ``environ`` holds the variables for ``${NAME}`` in the configuration; by default those of the process.

    Raises ``ConfigError`` with every fault, ``UnknownPlugin`` or ``PluginConflict`` for a name that is
    selected, ``InvalidPlugin`` for an object among ``plugins`` that is none, and ``TopicConflict``.
    """
    return Bus(_Assembly(config, plugins, clock or SystemClock(), environ, installed).parts())


def open_sync_bus(
    config: ConfigSource,
    *,
    plugins: Iterable[object] = (),
    installed: bool = True,
    clock: Clock | None = None,
    environ: Mapping[str, str] | None = None,
) -> SyncBus:
    """The same bus for threads and synchronous frameworks; see ``open_bus`` for arguments and errors."""
    return SyncBus(open_bus(config, plugins=plugins, installed=installed, clock=clock, environ=environ))


def check_config(
    config: ConfigSource, *, plugins: Iterable[object] = (), environ: Mapping[str, str] | None = None
) -> list[str]:
    """Returns every fault of a configuration, including those that ``open_bus`` meets one after the other.

    Builds nothing. Raises ``ConfigError`` only when there is nothing to check, such as a missing file.
    """
    assembly = _Assembly(config, plugins, SystemClock(), environ)
    assembly.check_all()
    return [*assembly.faults, *(str(error) for error in assembly.plugin_errors)]


class _Assembly:
    """Assembles one bus. Collects faults, so that all of them are reported together."""

    def __init__(
        self,
        source: ConfigSource,
        plugins: Iterable[object],
        clock: Clock,
        environ: Mapping[str, str] | None,
        installed: bool = True,
    ) -> None:
        self.config, self.faults = read_config(source, environ=environ)
        self.plugin_errors: list[PluginError] = []
        # By kind, name and path: the offer, its options, and the foreign sections that it reads.
        self._prepared: dict[tuple[str, str, str], tuple[Offer[Any], Any, Mapping[str, Any]]] = {}
        # The stores that the options of a part choose, by name of the option.
        self._chosen: dict[tuple[str, str, str], Mapping[str, PluginChoice]] = {}
        self._stores: list[tuple[str, Any, Store]] = []
        self._clock = clock
        self._plugins: Plugins = discover(
            disable=self.config.plugins.disable,
            only=self.config.plugins.only,
            extra=plugins,
            installed=installed,
            environ=environ,
        )
        self.faults += self.config.check_sections(self._plugins.adapters.names)

    def check_all(self) -> None:
        """Selects everything and reads all options, but builds nothing."""
        config = self.config
        self._prepare(self._plugins.adapters, self._adapter_choice(config.adapter), "$.bus.adapter")
        if config.fallback:
            self._prepare(self._plugins.adapters, self._adapter_choice(config.fallback), "$.bus.fallback")
        self._prepare(self._plugins.serializers, config.serializer)
        for choice in config.retry_choices():
            self._prepare(self._plugins.retry_policies, choice)
        for choice in (*config.middleware.consume, *config.middleware.publish):
            self._prepare(self._plugins.middleware, choice)
        self._check_chain("consume", config.middleware.consume)
        self._check_chain("publish", config.middleware.publish)
        for choice in config.health.probes:
            self._prepare(self._plugins.health_probes, choice)
        for choice in config.observers:
            self._prepare(self._plugins.observers, choice)

    def parts(self) -> BusParts:
        """Builds all parts of a bus. Raises when anything is wrong."""
        self.check_all()
        if len(self.plugin_errors) == 1 and not self.faults:
            raise self.plugin_errors[0]
        if self.faults or self.plugin_errors:
            raise ConfigError(
                self.config.source, [*self.faults, *(str(error) for error in self.plugin_errors)]
            ) from (self.plugin_errors[0] if self.plugin_errors else None)
        config, plugins = self.config, self._plugins
        registry = TopicRegistry(strict=config.strict_topics)
        for catalogue, origin in plugins.catalogues:
            registry.add_catalogue(catalogue, origin)
        adapter = self._adapter(config.adapter)
        serializer = self._build(plugins.serializers, config.serializer, adapter)
        consume, publish = self._chain(config.middleware.consume), self._chain(config.middleware.publish)
        return BusParts(
            config=config,
            plugins=plugins,
            adapter=adapter,
            fallback=self._fallback(),
            codec=Codec(serializer, registry, config.service),
            registry=registry,
            clock=self._clock,
            policy_for=self._policies(),
            consume_middleware=tuple(middleware for _, middleware in consume),
            publish_middleware=tuple(middleware for _, middleware in publish),
            stores=tuple(store for _, _, store in self._stores),
            store_checks=store_checks((name, store) for name, _, store in self._stores),
            watched=watched_of(consume, publish),
            probes=self._probes(adapter),
            observers=self._observers(adapter),
        )

    # --- the parts one by one -----------------------------------------------------------------------------

    def _adapter_choice(self, name: str) -> PluginChoice:
        try:
            return self.config.adapter_choice(name)
        except ConfigError as error:
            self._add_faults(error.faults)
            return PluginChoice(name, {}, f"$.bus.{name}")

    def _adapter(self, name: str) -> AnyAdapter:
        return self._build(self._plugins.adapters, self._adapter_choice(name))

    def _fallback(self) -> AnyAdapter | None:
        name = self.config.fallback
        return None if name in (None, self.config.adapter) else self._adapter(name)

    def _policies(self) -> Callable[[str], RetryPolicy]:
        # Built here, not at the first failure, so that a plugin that cannot build its policy is an error of
        # open_bus.
        by_path = {
            (choice.name, choice.path): self._build(self._plugins.retry_policies, choice)
            for choice in self.config.retry_choices()
        }
        remembered: dict[str, RetryPolicy] = {}

        def policy_for(topic: str) -> RetryPolicy:
            policy = remembered.get(topic)
            if policy is None:
                choice = self.config.retry_for(topic)
                policy = by_path[choice.name, choice.path]
                if len(remembered) < _MOST_REMEMBERED_TOPICS:
                    remembered[topic] = policy
            return policy

        return policy_for

    def _chain(self, choices: Sequence[PluginChoice]) -> list[tuple[str, Middleware]]:
        return [(choice.name, self._build(self._plugins.middleware, choice)) for choice in choices]

    def _probes(self, adapter: AnyAdapter) -> Mapping[str, HealthProbe]:
        return {
            choice.name: self._build(self._plugins.health_probes, choice, adapter)
            for choice in self.config.health.probes
        }

    def _observers(self, adapter: AnyAdapter) -> Mapping[str, Observer]:
        return {
            choice.name: self._build(self._plugins.observers, choice, adapter)
            for choice in self.config.observers
        }

    def _prepare(
        self, registry: NamedRegistry[Factory[Any, T]], choice: PluginChoice, where: str | None = None
    ) -> None:
        """Finds the offer, and reads and checks its options once. Collects the faults."""
        try:
            offer = registry.select(choice.name)
        except PluginError as error:
            error.where = where or choice.path
            if str(error) not in map(str, self.plugin_errors):
                self.plugin_errors.append(error)
            return
        faults: list[str] = []
        options = read_choice(offer.value.options, choice, faults)
        self._add_faults(faults)
        try:
            found = {name: self.config.section(name) for name in offer.value.sections}
        except ConfigError as error:
            self._add_faults(error.faults)
            return
        sections = {name: section for name, section in found.items() if section is not None}
        if offer.value.check is not None:
            self._add_faults(offer.value.check(options, sections))
        self._prepared[registry.kind, choice.name, choice.path] = offer, options, sections
        if options is not None and offer.value.stores:
            self._prepare_stores(registry.kind, choice, offer.value.stores, options)

    def _prepare_stores(self, kind: str, user: PluginChoice, fields: Iterable[str], options: Any) -> None:
        """Prepares the stores that the options of a part choose, by the names of these options."""
        chosen: dict[str, PluginChoice] = {}
        for field in fields:
            choice: PluginChoice | None = getattr(options, field)
            if choice is None:
                continue
            if field not in user.options:  # a default knows no path
                choice = PluginChoice(choice.name, choice.options, join_path(user.path, field))
            self._prepare(self._plugins.stores, choice)
            chosen[field] = choice
        self._chosen[kind, user.name, user.path] = chosen

    def _check_chain(self, chain: Literal["consume", "publish"], choices: Iterable[PluginChoice]) -> None:
        """Refuses middleware that cannot work in a chain."""
        for choice in choices:
            prepared = self._prepared.get((self._plugins.middleware.kind, choice.name, choice.path))
            if prepared is not None and chain not in prepared[0].value.chains:
                other = " or ".join(prepared[0].value.chains)
                fault = f"the middleware {choice.name!r} works in the chain {other!r} only; move it there"
                self._add_faults([Fault(fault, choice.path)])

    def _store(self, choice: PluginChoice) -> Store:
        """A store that was prepared. Equal choices share one."""
        _, options, _ = self._prepared[self._plugins.stores.kind, choice.name, choice.path]
        for name, known, store in self._stores:
            if name == choice.name and known == options:
                return store
        built = self._build(self._plugins.stores, choice)
        self._stores.append((choice.name, options, built))
        return built

    def _add_faults(self, faults: Iterable[str]) -> None:
        self.faults += [fault for fault in faults if fault not in self.faults]

    def _build(
        self,
        registry: NamedRegistry[Factory[Any, T]],
        choice: PluginChoice,
        adapter: AnyAdapter | None = None,
    ) -> T:
        """Builds a part from the options that ``_prepare`` has read."""
        offer, options, sections = self._prepared[registry.kind, choice.name, choice.path]
        chosen = self._chosen.get((registry.kind, choice.name, choice.path), {})
        context = BuildContext(
            service=self.config.service,
            clock=self._clock,
            sections=sections,
            adapter=adapter,
            stores={field: self._store(store) for field, store in chosen.items()},
            quarantined=self._plugins.quarantined,
        )
        try:
            built: T = offer.value.build(options, context)
        except BusError:
            raise
        except Exception as error:
            broken = PluginError(
                f"the {offer.kind} {offer.name!r} of {offer.origin} cannot be built: {describe_error(error)}"
            )
            broken.where = choice.path
            raise broken from error
        return built


_MOST_REMEMBERED_TOPICS = 10_000
