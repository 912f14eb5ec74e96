from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import importlib_metadata
import pytest

import promenade_bus_memory
from bus_core import (
    BuildContext,
    Bus,
    BusConfig,
    BusError,
    ConfigError,
    Factory,
    InvalidPlugin,
    PluginConflict,
    PluginError,
    SyncBus,
    Topic,
    TopicCatalogue,
    UnknownPlugin,
    UnknownTopic,
    check_config,
    hookimpl,
    load_config,
    open_bus,
    open_sync_bus,
)
from promenade_bus_testing import VirtualClock
from support.buses import HAPPENED, Happened, happened, make_bus
from support.distributions import Site, hide_distribution
from support.handlers import Collecting, ignore
from support.inline_plugins import middleware_plugin, noting, plugin, ready_made

OFF = {"PROMENADE_BUS_PLUGINS": "off"}
MEMORY: dict[str, Any] = {"bus": {"adapter": "memory"}}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A directory on the path of installed distributions, beside those of the environment."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PROMENADE_BUS_PLUGINS", raising=False)
    return Site(tmp_path)


@pytest.fixture
def without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment where the adapter for Redis is not installed."""
    hide_distribution(monkeypatch, "promenade-bus-redis")


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment where only the core is installed."""
    monkeypatch.setattr(importlib_metadata, "distributions", lambda **_: [])


# --- where the configuration comes from -------------------------------------------------------------------


async def test_a_mapping_a_file_and_a_config(tmp_path: Path) -> None:
    """A bus is opened from a mapping, the path of a file, or a configuration that was loaded before."""
    file = tmp_path / "app.yaml"
    file.write_text("app: {name: shop}\nbus: {adapter: memory, buffer_size: 7}\n")
    mapping = {"app": {"name": "shop"}, "bus": {"adapter": "memory", "buffer_size": 7}}
    for source in (file, str(file), mapping, load_config(file)):
        bus = open_bus(source)
        assert isinstance(bus, Bus)
        assert bus.service == "shop"
        assert isinstance(bus.config, BusConfig)
        assert bus.config.buffer_size == 7
        assert repr(bus) == "<Bus 'shop' on 'memory', not started>"


def test_open_sync_bus() -> None:
    """The sync bus is opened from the same, with the same errors."""
    bus = open_sync_bus(MEMORY, plugins=[], clock=VirtualClock())
    assert isinstance(bus, SyncBus)
    with pytest.raises(UnknownPlugin):
        open_sync_bus({"bus": {"adapter": "memmory"}})


def test_no_such_file(tmp_path: Path) -> None:
    """A file that does not exist is an error of the configuration that names it."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        open_bus(tmp_path / "nowhere.yaml")


def test_opening_does_not_start_anything() -> None:
    """Opening a bus needs no event loop, and may be repeated."""
    buses = [open_bus(MEMORY) for _ in range(3)]
    assert {bus.status for bus in buses} == {"not started"}


async def test_a_clock_is_used(virtual_clock: VirtualClock) -> None:
    """The clock that is given serves the engine and the factories."""
    seen: list[BuildContext] = []

    @attrs.frozen
    class Options:
        level: int = 1

    def build(options: Options, context: BuildContext) -> Any:
        seen.append(context)
        return noting("x", [])

    offering = plugin(middleware={"mine": Factory(Options, build)})
    open_bus(
        {"app": {"name": "shop"}, "bus": {"adapter": "memory", "middleware": ["mine"]}},
        plugins=[offering],
        clock=virtual_clock,
    )
    assert seen[0].clock is virtual_clock
    assert (seen[0].service, dict(seen[0].sections)) == ("shop", {})


def test_all_faults_of_an_adapter_are_told() -> None:
    """The faults that a factory finds are told together with all others, also when its options are bad."""

    @attrs.frozen(kw_only=True)
    class Options:
        size: int = 1

    def check(options: Options | None, sections: Any) -> list[str]:
        own = [] if options is None or options.size < 10 else [f"{options.size} is too much @ $.bus.odd.size"]
        return own + [f"no {section} @ $.{name}" for name, section in sections.items()]

    factory = Factory(Options, lambda options, context: None, ("database.odd",), check)
    odd = plugin(adapters={"odd": factory})
    config: dict[str, Any] = {"database": {"odd": {"a": 1}}, "bus": {"adapter": "odd", "odd": {"size": 12}}}
    with pytest.raises(ConfigError) as caught:
        open_bus(config | {"bus": {**config["bus"], "worker_pool_size": 0}}, plugins=[odd])
    assert len(caught.value.faults) == 3
    assert caught.value.faults[1:] == ("12 is too much @ $.bus.odd.size", "no {'a': 1} @ $.database.odd")
    config["bus"]["odd"] = {"size": "x"}
    with pytest.raises(ConfigError) as caught:
        open_bus(config, plugins=[odd])
    assert len(caught.value.faults) == 2
    assert check_config(config, plugins=[odd]) == list(caught.value.faults)


def test_variables_are_those_given() -> None:
    """``environ`` replaces the variables of the process, also for the switch of plugins."""
    config = {"bus": {"adapter": "${ADAPTER}"}}
    assert open_bus(config, environ={"ADAPTER": "memory"}).adapter.name == "memory"
    with pytest.raises(ConfigError, match="ADAPTER"):
        open_bus(config, environ={})
    with pytest.raises(UnknownPlugin):
        open_bus(MEMORY, environ=OFF)


# --- adapters that are not there --------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_installed")
def test_nothing_installed() -> None:
    """Without any adapter the error says so, and what to install."""
    with pytest.raises(UnknownPlugin) as caught:
        open_bus(MEMORY)
    assert str(caught.value) == (
        "unknown adapter 'memory'; installed: none; to install it: pip install promenade-bus-memory "
        "@ $.bus.adapter"
    )


@pytest.mark.usefixtures("without_redis")
def test_unknown_adapter() -> None:
    """An adapter that nobody offers is an error with the nearest name and what is installed."""
    with pytest.raises(UnknownPlugin) as caught:
        open_bus({"bus": {"adapter": "memmory"}})
    assert str(caught.value).startswith("unknown adapter 'memmory'; did you mean 'memory'? installed: memory")
    with pytest.raises(UnknownPlugin) as caught:
        open_bus({"bus": {"adapter": "kafka"}})
    assert str(caught.value) == (
        "unknown adapter 'kafka'; installed: memory, postgres, sqlite; available: pip install "
        "promenade-bus-redis @ $.bus.adapter"
    )


@pytest.mark.usefixtures("without_redis")
def test_an_adapter_to_install() -> None:
    """A first-party adapter that is not installed comes with the command that installs it."""
    with pytest.raises(UnknownPlugin) as caught:
        open_bus({"bus": {"adapter": "redis"}})
    assert "installed: memory, postgres, sqlite; to install it: pip install promenade-bus-redis" in str(
        caught.value
    )


@pytest.mark.parametrize("bus", [{}, {"adapter": ""}, None, {"adapter": None}])
def test_no_adapter(bus: Any) -> None:
    """A configuration that selects no adapter says what there is to select."""
    with pytest.raises(BusError) as caught:
        open_bus({"bus": bus})
    text = str(caught.value)
    assert "adapter" in text
    assert "memory" in text or "expected a text" in text


def test_the_only_fault_is_its_own_error() -> None:
    """A single plugin that is missing is an UnknownPlugin; it is known by its kind, name and alternatives."""
    with pytest.raises(UnknownPlugin) as caught:
        open_bus({"bus": {"adapter": "memory", "middleware": ["loging"]}})
    assert (caught.value.kind, caught.value.name) == ("middleware", "loging")
    assert "logging" in caught.value.available


def test_several_faults_together() -> None:
    """All faults of all kinds are told at once: of the bus, of options, and of plugins that are missing."""
    config = {
        "bus": {
            "adapter": "kafka",
            "worker_pool_sise": 5,
            "buffer_size": "many",
            "serializer": "jsn",
            "middleware": {"consume": [{"timeout": {"secnds": 5}}], "publish": ["nothing"]},
            "retry": {"policy": "exponential", "attempts": 0},
            "health": {"probes": ["engin"]},
            "topics": {"a.#": {"retry": {"policy": "fixd"}}},
        }
    }
    with pytest.raises(ConfigError) as caught:
        open_bus(config)
    text = str(caught.value)
    for part in (
        "unknown adapter 'kafka'",
        "unknown key 'worker_pool_sise', did you mean 'worker_pool_size'? @ $.bus",
        "expected a whole number, got 'many' @ $.bus.buffer_size",
        "unknown serializer 'jsn'; did you mean 'json'?",
        "unknown key 'secnds', did you mean 'seconds'?",
        "the key 'seconds' is required",
        "unknown middleware 'nothing'",
        "attempts must be a finite number of at least 1, got 0 @ $.bus.retry.attempts",
        "unknown health probe 'engin'; did you mean 'engine'?",
        "unknown retry policy 'fixd'; did you mean 'fixed'?",
    ):
        assert part in text, part
    assert len(caught.value.faults) == 10
    assert isinstance(caught.value.__cause__, PluginError)
    assert len(check_config(config)) == 10


def test_check_config_builds_nothing() -> None:
    """Checking a configuration finds its faults without building anything."""

    def build(options: Any, context: Any) -> Any:
        raise AssertionError("it was built")

    @attrs.frozen
    class Options:
        size: int = 1

    offering = plugin(adapters={"mine": Factory(Options, build)})
    assert check_config({"bus": {"adapter": "mine"}}, plugins=[offering]) == []
    assert check_config({"bus": {"adapter": "mine", "mine": {"sise": 1}}}, plugins=[offering]) == [
        "unknown key 'sise', did you mean 'size'? @ $.bus.mine"
    ]


def test_a_factory_that_raises() -> None:
    """A plugin that cannot build what it offers is named, with the cause."""

    def build(options: Any, context: Any) -> Any:
        raise ModuleNotFoundError("No module named 'confluent'")

    @attrs.frozen
    class Options: ...

    offering = plugin(adapters={"kafka": Factory(Options, build)})
    with pytest.raises(PluginError) as caught:
        open_bus({"bus": {"adapter": "kafka"}}, plugins=[offering])
    assert "the adapter 'kafka' of" in str(caught.value)
    assert "cannot be built: ModuleNotFoundError: No module named 'confluent'" in str(caught.value)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


# --- plugins ----------------------------------------------------------------------------------------------


def test_a_quarantined_adapter_is_named(site: Site) -> None:
    """An adapter whose plugin is broken is an error that names the plugin, its version and the cause."""
    site.install("promenade-bus-kafka", "import no_such_dependency", version="2.1", module="bootstrap_kafka")
    try:
        with pytest.raises(UnknownPlugin) as caught:
            open_bus({"bus": {"adapter": "kafka"}})
        text = str(caught.value)
        assert "quarantined: kafka (promenade-bus-kafka 2.1): ModuleNotFoundError" in text
        assert "no_such_dependency" in text
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
        assert open_bus(MEMORY).adapter.name == "memory"
    finally:
        site.forget_modules()


def test_two_plugins_offer_what_is_selected(site: Site) -> None:
    """Two plugins that offer one name are an error that names both, once the name is selected."""
    second = plugin(adapters={"memory": ready_made(None), "other": ready_made(None)})
    with pytest.raises(PluginConflict) as caught:
        open_bus(MEMORY, plugins=[second])
    assert "adapter 'memory' is offered by " in str(caught.value)
    assert "promenade-bus-memory" in str(caught.value)
    assert "given in code" in str(caught.value)
    assert open_bus({"bus": {"adapter": "memory"}}, plugins=[plugin(adapters={"json": ready_made(None)})])


async def test_plugins_that_are_not_installed() -> None:
    """Modules and objects may be given as plugins: adapters, middleware, topics and more."""
    notes: list[str] = []

    class Context:
        @hookimpl
        def promenade_bus_topics(self) -> list[TopicCatalogue]:
            return [TopicCatalogue("test", [HAPPENED])]

    bus = open_bus(
        {"bus": {"adapter": "memory", "middleware": ["note"]}},
        plugins=[promenade_bus_memory, Context(), middleware_plugin(note=noting("note", notes))],
        environ=OFF,
    )
    received = Collecting()
    async with bus:
        bus.subscribe("test.thing.happened", received.collect)
        await bus.publish("test.thing.happened", happened(1))
        await bus.drain()
    assert received.numbers == [1]
    assert notes == ["note in", "note out"]


def test_two_plugins_of_one_class() -> None:
    """Several objects of one class may be given, each with offers of its own."""
    offering = [middleware_plugin(one=noting("one", [])), middleware_plugin(two=noting("two", []))]
    bus = open_bus({"bus": {"adapter": "memory", "middleware": ["one", "two"]}}, plugins=offering)
    assert len(bus.parts.consume_middleware) == 2


@pytest.mark.parametrize(
    "bad",
    [None, "memory", object(), Happened, SimpleNamespace(promenade_bus_adapters=lambda: {})],
    ids=["none", "text", "object", "class", "not-marked"],
)
def test_what_is_no_plugin(bad: Any) -> None:
    """Something that is no plugin is an error when it is given as one."""
    with pytest.raises(InvalidPlugin):
        open_bus(MEMORY, plugins=[bad])


def test_one_plugin_manager_per_bus() -> None:
    """Plugins given to one bus are not known to another."""
    offering = middleware_plugin(mine=noting("mine", []))
    config = {"bus": {"adapter": "memory", "middleware": ["mine"]}}
    open_bus(config, plugins=[offering])
    with pytest.raises(UnknownPlugin):
        open_bus(config)


def test_a_catalogue_that_claims_a_topic_of_another() -> None:
    """A catalogue that declares a topic of another one is refused, and names it."""

    def catalogue(name: str) -> object:
        module = ModuleType(name)
        module.promenade_bus_topics = hookimpl(  # type: ignore[attr-defined]
            lambda: [TopicCatalogue("test", [Topic("test.thing.happened", Happened)])]
        )
        return module

    with pytest.raises(InvalidPlugin, match=r"topic 'test\.thing\.happened' is already declared by"):
        open_bus(MEMORY, plugins=[catalogue("one"), catalogue("two")])


async def test_disabled_contexts_bring_no_topics() -> None:
    """The topics of a disabled context are not known."""
    enabled = open_bus(MEMORY)
    disabled = open_bus({"bus": {"adapter": "memory", "plugins": {"disable": ["identity"]}}})
    assert "identity.user.registered" in enabled.topics
    assert "identity.user.registered" not in disabled.topics
    enabled.subscribe("identity.user.registered", ignore)
    with pytest.raises(UnknownTopic):
        disabled.subscribe("identity.user.registered", ignore)


# --- retries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "attempts"),
    [("a.b", 4), ("a.b.c", 2), ("a", 2), ("z", 6)],
)
async def test_policies_of_overlapping_patterns(topic: str, attempts: int) -> None:
    """Each topic has the policy of the most specific pattern, also where patterns cover one another."""
    bus = make_bus(
        retry={"attempts": 6, "delay": 0},
        topics={"a.#": {"retry": {"attempts": 2}}, "a.*": {"retry": {"attempts": 4}}},
    )

    async def fail(event: Happened) -> None:
        raise ValueError

    async with bus:
        bus.subscribe("#", fail)
        await bus.publish(Topic(topic, Happened), happened())
        await bus.drain()
        (letter,) = await bus.dead_letters.list()
    assert letter.reason == f"retries exhausted after {attempts} attempts"


def test_faults_of_overlapping_patterns() -> None:
    """The options of every entry are checked, also of one whose pattern is covered by another."""
    with pytest.raises(ConfigError) as caught:
        make_bus(topics={"a.#": {"retry": {"attempts": -1}}, "a.*": {"retry": {"attempts": 4}}})
    assert "attempts must be a finite number of at least 1, got -1" in str(caught.value)
