"""Discovery: which plugins there are, what each offers, and why one cannot be used.

Every plugin is loaded and asked on its own. One that fails is quarantined with its cause and harms nobody
else, until the configuration selects what only it could offer. What is found does not depend on the order
in which plugins are installed, listed or called.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Generic, Literal, TypeVar

import attrs
import importlib_metadata
import pluggy

from bus_core import builtins, hookspecs
from bus_core.abc import Adapter, Factory, HealthProbe, Middleware, RetryPolicy, Serializer
from bus_core.errors import InvalidPlugin, PluginConflict, UnknownPlugin, suggestion
from bus_core.hookspecs import ENTRY_POINT_GROUP, PROJECT
from bus_core.topics import TopicCatalogue, nearest_names

__all__ = ["KNOWN", "Finding", "InstalledPlugin", "NamedRegistry", "Offer", "Plugins", "discover"]

T = TypeVar("T")

CORE_DISTRIBUTION: Final = "promenade-bus"
SWITCH: Final = "PROMENADE_BUS_PLUGINS"

KNOWN: Final[Mapping[tuple[str, str], str]] = {
    ("adapter", "memory"): "promenade-bus-memory",
    ("adapter", "redis"): "promenade-bus-redis",
    ("middleware", "logging"): "promenade-bus-middleware",
    ("middleware", "timeout"): "promenade-bus-middleware",
    ("health probe", "engine"): "promenade-bus-health",
    ("health probe", "event-loop"): "promenade-bus-health",
}
"""Which first-party distribution offers what, by kind and name: the source of every install hint."""

_HOOK_KINDS: Final[Mapping[str, str]] = {
    "promenade_bus_adapters": "adapter",
    "promenade_bus_serializers": "serializer",
    "promenade_bus_retry_policies": "retry policy",
    "promenade_bus_middleware": "middleware",
    "promenade_bus_health_probes": "health probe",
    "promenade_bus_commands": "command",
}
_TOPICS_HOOK: Final = "promenade_bus_topics"
_HOOKS: Final = (*_HOOK_KINDS, _TOPICS_HOOK)


# --- what discovery finds ---------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class InstalledPlugin:
    """A plugin that discovery came across: from an entry point, built in, or given in code.

    ``name`` is the name of the entry point. ``offers`` lists pairs of kind and name, such as
    ``("adapter", "memory")`` or ``("topics", "identity")``. ``cause`` says why it is not loaded, and
    ``error`` is the exception behind a quarantine.
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
        """Where it comes from: ``promenade-bus-memory 0.1.0``, or the object that was given in code."""
        if self.distribution is None:
            return f"{self.module} (given in code)"
        return f"{self.distribution} {self.version}" if self.version else self.distribution

    def __str__(self) -> str:
        text = self.origin if self.distribution is None else f"{self.name} ({self.origin})"
        return f"{text}: {self.cause}" if self.cause else text


@attrs.frozen
class Finding:
    """Something that ``promenade-bus plugins doctor`` reports."""

    severity: Literal["error", "warning"]
    plugin: str
    what: str
    what_to_do: str


@attrs.frozen
class Offer(Generic[T]):
    """Something that a plugin offers by name; ``origin`` is the distribution and its version."""

    kind: str
    name: str
    value: T
    origin: str


@attrs.frozen
class NamedRegistry(Generic[T]):
    """What all plugins together offer of one kind."""

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
        return UnknownPlugin(
            self.kind,
            name,
            self.names,
            nearest,
            install=None
            if distribution is None or distribution in present
            else f"pip install {distribution}",
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
    """Everything that one discovery found. It never changes; discover again to see what is new."""

    installed: tuple[InstalledPlugin, ...]
    adapters: NamedRegistry[Factory[Any, Adapter]]
    serializers: NamedRegistry[Factory[Any, Serializer]]
    retry_policies: NamedRegistry[Factory[Any, RetryPolicy]]
    middleware: NamedRegistry[Factory[Any, Middleware]]
    health_probes: NamedRegistry[Factory[Any, HealthProbe]]
    commands: NamedRegistry[Any]
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
            self.health_probes,
            self.commands,
        )

    def findings(self) -> tuple[Finding, ...]:
        """What is wrong or suspicious, worst first; empty when all is well."""
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


# --- discovery --------------------------------------------------------------------------------------------


def discover(
    *,
    disable: Iterable[str] = (),
    only: Iterable[str] | None = None,
    extra: Iterable[object] = (),
    environ: Mapping[str, str] | None = None,
) -> Plugins:
    """Finds every plugin and asks it once for all that it offers.

    ``disable`` and ``only`` hold names of entry points or distributions; what they exclude is not
    imported. ``extra`` holds plugins that are not installed: modules, or objects with functions marked
    by ``hookimpl``. With ``PROMENADE_BUS_PLUGINS=off`` in the environment no entry point is loaded.

    A broken entry point is quarantined. Raises ``InvalidPlugin`` for a broken one among ``extra``.
    """
    search = _Search()
    search.ask(
        builtins,
        InstalledPlugin(
            name="builtins",
            distribution=CORE_DISTRIBUTION,
            version=search.core_version,
            module="bus_core.builtins",
        ),
    )
    search.entry_points(frozenset(disable), None if only is None else frozenset(only), environ)
    for plugin in extra:
        search.given_in_code(plugin)
    return search.result()


@attrs.frozen(order=True)
class _EntryPoint:
    """What the metadata of an installed distribution says about one of its plugins."""

    name: str
    distribution: str
    value: str
    version: str
    requires: tuple[str, ...]

    def load(self) -> object:
        return importlib_metadata.EntryPoint(self.name, self.value, ENTRY_POINT_GROUP).load()


class _Search:
    """One discovery in progress: a plugin manager, and what has been found so far."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._plugins: list[object] = []
        self._installed: list[InstalledPlugin] = []
        self._offers: dict[str, dict[str, list[Offer[Any]]]] = {kind: {} for kind in _HOOK_KINDS.values()}
        self._catalogues: list[tuple[TopicCatalogue, str]] = []
        self._topic_origins: dict[str, str] = {}
        self._notes: list[Finding] = []
        self.core_version = _version_of(CORE_DISTRIBUTION)

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
        for entry in self._installed_entry_points():
            plugin = InstalledPlugin(
                name=entry.name,
                distribution=entry.distribution,
                version=entry.version,
                module=entry.value,
            )
            names = {entry.name, _canonical(entry.distribution)}
            seen |= names
            if switch.lower() == "off":
                self._set_aside(plugin, f"{SWITCH}=off")
            elif disable & names:
                self._set_aside(plugin, "listed under 'bus.plugins.disable'")
            elif only is not None and not only & names:
                self._set_aside(plugin, "not listed under 'bus.plugins.only'")
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
        """Calls the hooks of one plugin and keeps what it offers: everything, or nothing when it raises."""
        name = f"{described.origin}:{described.name}"
        self._register(plugin, described, name)
        try:
            self._collect(plugin, described)
        except BaseException:
            self._manager.unregister(name=name)
            raise

    def _collect(self, plugin: object, described: InstalledPlugin) -> None:
        offers: list[Offer[Any]] = []
        catalogues: list[TopicCatalogue] = []
        for hook in _HOOKS:
            for implementation in getattr(self._manager.hook, hook).get_hookimpls():
                if implementation.plugin is not plugin:
                    continue
                answer = implementation.function()
                if hook == _TOPICS_HOOK:
                    catalogues.extend(_checked_catalogues(answer))
                else:
                    kind = _HOOK_KINDS[hook]
                    for name, value in _checked_offers(hook, answer).items():
                        offers.append(Offer(kind, name, value, described.origin))
        self._check_topics(catalogues)
        for offer in offers:
            self._offers[offer.kind].setdefault(offer.name, []).append(offer)
        for catalogue in catalogues:
            self._catalogues.append((catalogue, described.origin))
            self._topic_origins.update((topic.name, described.origin) for topic in catalogue)
        names = [(offer.kind, offer.name) for offer in offers]
        names += [("topics", catalogue.context) for catalogue in catalogues]
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
            health_probes=registry("health probe"),
            commands=registry("command"),
            catalogues=tuple(sorted(self._catalogues, key=lambda found: (found[0].context, found[1]))),
            notes=tuple(self._notes),
        )

    # --- entry points ---

    def _installed_entry_points(self) -> list[_EntryPoint]:
        # A distribution that was installed a moment ago must be seen, and be importable.
        importlib.invalidate_caches()
        found: dict[str, list[_EntryPoint]] = {}
        for distribution in importlib_metadata.distributions():
            text = distribution.read_text("entry_points.txt")
            if not text or ENTRY_POINT_GROUP not in text:
                continue
            try:
                name, version = distribution.metadata["Name"], distribution.version
                entries = list(distribution.entry_points.select(group=ENTRY_POINT_GROUP))
                requires = tuple(distribution.requires or ())
            except Exception as error:  # the leftover of an interrupted uninstall, or an edited file
                where = str(distribution.locate_file(""))
                self._note(where, f"unreadable metadata: {_cause(error)}", "remove or reinstall it")
                continue
            # Of two distributions with one name, Python imports the one that is earlier on the path.
            found.setdefault(
                _canonical(name),
                [_EntryPoint(entry.name, name, entry.value, version, requires) for entry in entries],
            )
        return sorted(entry for entries in found.values() for entry in entries)

    def _load(self, entry: _EntryPoint, described: InstalledPlugin) -> None:
        try:
            self.ask(entry.load(), described)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin must not end the application, not even by SystemExit
            self._installed.append(
                attrs.evolve(described, status="quarantined", cause=_cause(error), error=error)
            )

    def _set_aside(self, plugin: InstalledPlugin, cause: str) -> None:
        self._installed.append(attrs.evolve(plugin, status="disabled", cause=cause))

    def _check_version(self, plugin: InstalledPlugin, requires: Iterable[str]) -> None:
        if self.core_version is None:
            return
        for requirement in requires:
            if not _accepts(requirement, self.core_version):
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
        faults = list(_hook_faults(self._manager, plugin))
        if faults:
            raise InvalidPlugin("; ".join(faults))
        try:
            self._manager.register(plugin, name=name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise InvalidPlugin(" ".join(str(error).split())) from error

    def _check_topics(self, catalogues: Sequence[TopicCatalogue]) -> None:
        taken = [
            f"topic {topic.name!r} is already declared by {self._topic_origins[topic.name]}"
            for catalogue in catalogues
            for topic in catalogue
            if topic.name in self._topic_origins
        ]
        if taken:
            raise InvalidPlugin("; ".join(taken) + "; one context owns a topic")


# --- checks on what plugins are and answer ----------------------------------------------------------------


def _hook_faults(manager: pluggy.PluginManager, plugin: object) -> Iterator[str]:
    """What is wrong with the functions of a plugin, before any of them is called."""
    implements_any = False
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            value = inspect.getattr_static(plugin, attribute, None)
            if not attribute.startswith(f"{PROJECT}_") or not inspect.isfunction(value):
                continue
            if hasattr(value, f"{PROJECT}_spec"):
                continue
            if attribute in _HOOKS:
                yield f"{attribute!r} is not marked with @hookimpl"
            else:
                yield f"{attribute!r} is not a hook{_nearest_hook(attribute)}"
            implements_any = True
            continue
        implements_any = True
        hook = options.get("specname") or attribute
        if hook not in _HOOKS:
            if not options.get("optionalhook"):
                yield f"{hook!r} is not a hook{_nearest_hook(hook)}"
        elif options.get("wrapper") or options.get("hookwrapper"):
            yield f"{hook!r} is a wrapper, but no plugin may change what others answer"
        elif inspect.iscoroutinefunction(getattr(plugin, attribute)):
            yield f"{hook!r} is async, but hooks are plain functions"
    if not implements_any:
        yield f"it has no function marked with @hookimpl (hooks are: {', '.join(_HOOKS)})"


def _nearest_hook(name: str) -> str:
    # Compared without what all hooks begin with: it would make them all alike.
    endings = [hook.removeprefix(f"{PROJECT}_") for hook in _HOOKS]
    nearest = nearest_names(name.removeprefix(f"{PROJECT}_"), endings, limit=1)
    return suggestion([f"{PROJECT}_{ending}" for ending in nearest])


def _checked_offers(hook: str, answer: object) -> dict[str, Any]:
    if not isinstance(answer, Mapping):
        raise InvalidPlugin(f"{hook}() returned {_kind_of(answer)}, not a mapping of names")
    is_command = _HOOK_KINDS[hook] == "command"
    for name, value in answer.items():
        if not isinstance(name, str) or not name:
            raise InvalidPlugin(f"{hook}() returned the name {name!r}, not a str that can be selected")
        if is_command:
            if not callable(value):
                raise InvalidPlugin(f"{hook}() offers {name!r} as {_kind_of(value)}, not a command")
        elif not isinstance(value, Factory):
            raise InvalidPlugin(f"{hook}() offers {name!r} as {_kind_of(value)}, not a bus_core.abc.Factory")
        else:
            _check_factory(f"{hook}() offers {name!r} with", value)
    return dict(answer)


def _check_factory(what: str, factory: Factory[Any, Any]) -> None:
    options: object = factory.options
    build: object = factory.build
    sections: object = factory.sections
    if not isinstance(options, type) or not attrs.has(options):
        raise InvalidPlugin(f"{what} options that are no attrs class: {options!r}")
    if not callable(build):
        raise InvalidPlugin(f"{what} a 'build' that cannot be called: {build!r}")
    if not isinstance(sections, tuple) or not all(isinstance(section, str) for section in sections):
        raise InvalidPlugin(f"{what} sections that are no tuple of str: {sections!r}")


def _checked_catalogues(answer: object) -> Sequence[TopicCatalogue]:
    if isinstance(answer, TopicCatalogue):
        raise InvalidPlugin(f"{_TOPICS_HOOK}() returned one TopicCatalogue, not a list of them")
    if not isinstance(answer, list | tuple):
        raise InvalidPlugin(f"{_TOPICS_HOOK}() returned {_kind_of(answer)}, not a list of TopicCatalogue")
    for item in answer:
        if not isinstance(item, TopicCatalogue):
            raise InvalidPlugin(f"{_TOPICS_HOOK}() lists {_kind_of(item)}, not a TopicCatalogue")
    return answer


def _kind_of(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _name_of(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return f"{cls.__module__}.{cls.__qualname__}"


def _cause(error: BaseException) -> str:
    """One line that says what went wrong."""
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be shown)"
    text = " ".join(text.split())
    if len(text) > 500:
        text = text[:500] + "..."
    if type(error) is InvalidPlugin:
        return text  # what is found here needs no name of a class
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- versions ---------------------------------------------------------------------------------------------

_REQUIREMENT = re.compile(r"promenade[-_.]bus\s*(?:\[[^]]*\])?\s*\(?(?P<bounds>[^;)]*)", re.IGNORECASE)
_BOUND = re.compile(r"\s*(?P<operator>>=|<=|<|>)\s*(?P<version>\d+(?:\.\d+)*)\s*")
_COMPARISONS: Final[Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    ">=": lambda left, right: left >= right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    "<": lambda left, right: left < right,
}


def _accepts(requirement: str, core_version: str) -> bool:
    """Whether a requirement is not about the core, or its lower and upper bounds admit this version.

    Members depend on the core by ``>=X,<Y``. Other operators are pip's business, and are passed over.
    """
    match = _REQUIREMENT.match(requirement)
    if match is None or requirement[match.end() :].strip(" )") or "extra" in requirement:
        return True
    installed = _release(core_version)
    for part in match["bounds"].split(","):
        bound = _BOUND.fullmatch(part)
        if bound and not _COMPARISONS[bound["operator"]](installed, _release(bound["version"])):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _version_of(distribution: str) -> str | None:
    try:
        return importlib_metadata.version(distribution)
    except importlib_metadata.PackageNotFoundError:
        return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
