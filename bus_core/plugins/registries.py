"""The offers of plugins by kind and name, with their origins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Generic, Literal, TypeVar

import attrs

from bus_core.abc import (
    AnyAdapter,
    Command,
    Endpoint,
    Factory,
    HealthProbe,
    Middleware,
    Observer,
    RetryPolicy,
    Serializer,
    Store,
)
from bus_core.errors import PluginConflict, UnknownPlugin
from bus_core.events.topics import TopicCatalogue, nearest_names

__all__ = ["KNOWN", "Finding", "InstalledPlugin", "NamedRegistry", "Offer", "Plugins"]

T = TypeVar("T")

KNOWN: Final[Mapping[tuple[str, str], str]] = {
    ("adapter", "memory"): "promenade-bus-memory",
    ("adapter", "postgres"): "promenade-bus-postgres",
    ("adapter", "redis"): "promenade-bus-redis",
    ("adapter", "sqlite"): "promenade-bus-sqlite",
    ("middleware", "chaos"): "promenade-bus-testing",
    ("middleware", "circuit-breaker"): "promenade-bus-middleware",
    ("middleware", "correlation"): "promenade-bus-middleware",
    ("middleware", "expiry"): "promenade-bus-middleware",
    ("middleware", "logging"): "promenade-bus-middleware",
    ("middleware", "timeout"): "promenade-bus-middleware",
    ("middleware", "idempotency"): "promenade-bus-middleware",
    ("middleware", "rate-limit"): "promenade-bus-middleware",
    ("middleware", "redact"): "promenade-bus-middleware",
    ("middleware", "validate"): "promenade-bus-middleware",
    ("store", "memory"): "promenade-bus-middleware",
    ("store", "redis"): "promenade-bus-redis",
    ("serializer", "avro"): "promenade-bus-avro",
    ("serializer", "msgspec"): "promenade-bus-msgspec",
    ("health probe", "clock"): "promenade-bus-health",
    ("health probe", "consumption"): "promenade-bus-health",
    ("health probe", "dead-letters"): "promenade-bus-health",
    ("health probe", "django"): "promenade-bus-django",
    ("health probe", "engine"): "promenade-bus-health",
    ("health probe", "event-loop"): "promenade-bus-health",
    ("health probe", "losses"): "promenade-bus-health",
    ("health probe", "outbox"): "promenade-bus-outbox",
    ("health probe", "postgres"): "promenade-bus-postgres",
    ("health probe", "quarantined-plugins"): "promenade-bus-health",
    ("health probe", "redis"): "promenade-bus-redis",
    ("health probe", "retries"): "promenade-bus-health",
    ("health probe", "sqlite"): "promenade-bus-sqlite",
    ("observer", "opentelemetry"): "promenade-bus-opentelemetry",
    ("observer", "prometheus"): "promenade-bus-prometheus",
    ("observer", "sentry"): "promenade-bus-sentry",
    ("endpoint", "http"): "promenade-bus-http",
}
"""First-party distributions by the kind and name of their offers, for install hints."""


@attrs.frozen(kw_only=True)
class InstalledPlugin:
    """A plugin that discovery has seen: from an entry point, built in, or given in code.

    ``name`` is the name of the entry point. ``offers`` lists pairs of kind and name, such as ``("adapter",
    "memory")`` or ``("topics", "identity")``. ``cause`` is the reason why it is not loaded, and ``error`` the
    exception behind a quarantine.
    """

    name: str
    distribution: str | None
    version: str | None
    module: str
    status: Literal["loaded", "disabled", "quarantined"] = "loaded"
    cause: str | None = None
    error: BaseException | None = attrs.field(default=None, repr=False, eq=False)
    offers: tuple[tuple[str, str], ...] = ()

    @property
    def origin(self) -> str:
        """Its source: ``promenade-bus-memory 0.1.0``, or the object that was given in code."""
        if self.distribution is None:
            return f"{self.module} (given in code)"
        return f"{self.distribution} {self.version}" if self.version else self.distribution

    def __str__(self) -> str:
        text = self.origin if self.distribution is None else f"{self.name} ({self.origin})"
        return f"{text}: {self.cause}" if self.cause else text


@attrs.frozen
class Finding:
    """A finding that ``promenade-bus plugins doctor`` reports."""

    severity: Literal["error", "warning"]
    plugin: str
    what: str
    what_to_do: str


@attrs.frozen
class Offer(Generic[T]):
    """A named offer of a plugin; ``origin`` is the distribution and its version."""

    kind: str
    name: str
    value: T
    origin: str


@attrs.frozen
class NamedRegistry(Generic[T]):
    """The offers of all plugins of one kind."""

    kind: str
    _offers: Mapping[str, tuple[Offer[T], ...]]
    _installed: tuple[InstalledPlugin, ...] = attrs.field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is offered, sorted."""
        return tuple(sorted(self._offers))

    def __iter__(self) -> Iterator[Offer[T]]:
        for name in self.names:
            yield from self._offers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._offers

    @property
    def conflicts(self) -> Mapping[str, tuple[Offer[T], ...]]:
        """The names that several plugins offer. They matter only when they are selected."""
        return {name: self._offers[name] for name in self.names if len(self._offers[name]) > 1}

    def select(self, name: str) -> Offer[T]:
        """The offer of that name; raises ``UnknownPlugin`` or ``PluginConflict``."""
        offers = self._offers.get(name, ())
        if len(offers) > 1:
            raise PluginConflict(self.kind, name, [offer.origin for offer in offers])
        if not offers:
            raise self._unknown(name) from self._nearest_error(name)
        return offers[0]

    def _unknown(self, name: str) -> UnknownPlugin:
        known = [known for kind, known in KNOWN if kind == self.kind]
        nearest = nearest_names(name, sorted({*self.names, *known} - {name}))
        distribution = next(
            (KNOWN[self.kind, guess] for guess in (name, *nearest) if (self.kind, guess) in KNOWN), None
        )
        present = {plugin.distribution for plugin in self._installed}
        others = {KNOWN[self.kind, known_name] for known_name in known} - present
        return UnknownPlugin(
            self.kind,
            name,
            self.names,
            nearest,
            install=None
            if distribution is None or distribution in present
            else f"pip install {distribution}",
            # A similar known name may be meant, in another spelling.
            others=[] if distribution or nearest else [f"pip install {other}" for other in sorted(others)],
            quarantined=[str(plugin) for plugin in self._unusable("quarantined", name)],
            disabled=[str(plugin) for plugin in self._unusable("disabled", name)],
        )

    def _nearest_error(self, name: str) -> BaseException | None:
        for plugin in self._unusable("quarantined", name):
            if self._is_named_like(plugin, name):
                return plugin.error
        return None

    def _unusable(self, status: str, name: str) -> list[InstalledPlugin]:
        found = [plugin for plugin in self._installed if plugin.status == status]
        return sorted(found, key=lambda plugin: not self._is_named_like(plugin, name))

    def _is_named_like(self, plugin: InstalledPlugin, name: str) -> bool:
        known = KNOWN.get((self.kind, name), f"promenade-bus-{name}")
        return name == plugin.name or known == plugin.distribution


@attrs.frozen(kw_only=True)
class Plugins:
    """The result of one discovery. It never changes; discover again to see new plugins."""

    installed: tuple[InstalledPlugin, ...]
    adapters: NamedRegistry[Factory[Any, AnyAdapter]]
    serializers: NamedRegistry[Factory[Any, Serializer]]
    retry_policies: NamedRegistry[Factory[Any, RetryPolicy]]
    middleware: NamedRegistry[Factory[Any, Middleware]]
    stores: NamedRegistry[Factory[Any, Store]]
    health_probes: NamedRegistry[Factory[Any, HealthProbe]]
    observers: NamedRegistry[Factory[Any, Observer]]
    commands: NamedRegistry[Command]
    endpoints: NamedRegistry[Endpoint]

    @property
    def quarantined(self) -> Mapping[str, str]:
        """The cause of each quarantine, by the name of the plugin."""
        return {each.name: each.cause or "" for each in self.installed if each.status == "quarantined"}

    catalogues: tuple[tuple[TopicCatalogue, str], ...]
    _notes: tuple[Finding, ...] = attrs.field(default=(), alias="notes", repr=False)

    @property
    def registries(self) -> tuple[NamedRegistry[Any], ...]:
        """The registries of every kind."""
        return (
            self.adapters,
            self.serializers,
            self.retry_policies,
            self.middleware,
            self.stores,
            self.health_probes,
            self.observers,
            self.commands,
            self.endpoints,
        )

    def findings(self) -> tuple[Finding, ...]:
        """Errors and suspicious facts, the worst first; empty when everything is fine."""
        found = list(self._notes)
        for plugin in self.installed:
            if plugin.status == "quarantined":
                found.append(
                    Finding(
                        "error",
                        f"{plugin.name} ({plugin.origin})",
                        f"quarantined: {plugin.cause}",
                        f"repair, upgrade or uninstall {plugin.distribution or plugin.module}, "
                        f"or list {plugin.name!r} under 'bus.plugins.disable'",
                    )
                )
        for registry in self.registries:
            for name, offers in registry.conflicts.items():
                origins = " and ".join(offer.origin for offer in offers)
                found.append(
                    Finding(
                        "warning",
                        origins,
                        f"the {registry.kind} {name!r} is offered by {origins}; selecting it is an error",
                        "uninstall one of them or list it under 'bus.plugins.disable'",
                    )
                )
        return tuple(sorted(found, key=lambda finding: (finding.severity != "error", finding.plugin)))
