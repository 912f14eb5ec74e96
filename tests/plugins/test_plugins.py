from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import importlib_metadata
import pytest

from bus_core import Event, Topic, TopicCatalogue, event, hookimpl
from bus_core.abc import Factory
from bus_core.errors import InvalidPlugin, PluginConflict, UnknownPlugin
from bus_core.plugins import HOOK_VERSION
from bus_core.plugins.discovery import discover
from bus_core.plugins.registries import KNOWN, InstalledPlugin, Plugins
from support.distributions import Site

ADAPTER = """
@hookimpl
def promenade_bus_adapters():
    return {"%s": FACTORY}
"""
CATALOGUE = """
@event
class Sold(Event):
    amount: int

@hookimpl
def promenade_bus_topics():
    return [TopicCatalogue("%s", [Topic("%s", Sold)])]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty directory on the path, and the only one in which distributions are found."""
    site = Site(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PROMENADE_BUS_PLUGINS", raising=False)
    found = partial(importlib_metadata.distributions, path=[str(tmp_path)])
    monkeypatch.setattr("importlib_metadata.distributions", found)
    yield site
    site.forget_modules()


def find(plugins: Plugins, name: str) -> InstalledPlugin:
    (plugin,) = (plugin for plugin in plugins.installed if plugin.name == name)
    return plugin


def plugin_with(**functions: Callable[..., Any]) -> object:
    return SimpleNamespace(**{name: hookimpl(function) for name, function in functions.items()})


# --- what is found ----------------------------------------------------------------------------------------


def test_built_in_offers(site: Site) -> None:
    """Without any plugin the core offers its own serializer and retry policies, and nothing is wrong."""
    plugins = discover()
    assert plugins.serializers.names == ("json",)
    assert plugins.retry_policies.names == ("exponential", "fixed", "none")
    assert plugins.adapters.names == ()
    assert plugins.catalogues == ()
    assert [plugin.name for plugin in plugins.installed] == ["builtins"]
    assert plugins.findings() == ()


def test_an_installed_plugin(site: Site) -> None:
    """The offers of an installed distribution are found, with the distribution and version it comes from."""
    site.install("promenade-bus-memory", ADAPTER % "memory", version="0.1.0")
    plugins = discover()
    offer = plugins.adapters.select("memory")
    assert (offer.kind, offer.name, offer.origin) == ("adapter", "memory", "promenade-bus-memory 0.1.0")
    assert isinstance(offer.value, Factory)
    assert "memory" in plugins.adapters
    assert find(plugins, "memory") == InstalledPlugin(
        name="memory",
        distribution="promenade-bus-memory",
        version="0.1.0",
        module="fake_promenade_bus_memory",
        offers=(("adapter", "memory"),),
    )


def test_a_plugin_for_these_hooks(site: Site) -> None:
    """A plugin that states the version of the hooks that the core has is loaded."""
    site.install("fitting", f"PROMENADE_BUS_HOOKS = {HOOK_VERSION}\n" + ADAPTER % "fitting")
    assert find(discover(), "fitting").status == "loaded"


def test_a_plugin_for_newer_hooks(site: Site) -> None:
    """A plugin for newer hooks is told to get a newer core, instead of that it misspells a hook."""
    site.install("new", "PROMENADE_BUS_HOOKS = 2\n@hookimpl\ndef promenade_bus_streams(): return {}")
    cause = find(discover(), "new").cause
    assert cause is not None
    assert cause.startswith("it needs version 2 of the hooks, and promenade-bus")
    assert cause.endswith("has version 1: pip install --upgrade promenade-bus")


def test_every_kind_of_offer(site: Site) -> None:
    """Each hook fills the registry of its kind."""
    hooks = {
        "adapters": "adapter",
        "serializers": "serializer",
        "retry_policies": "retry policy",
        "middleware": "middleware",
        "stores": "store",
        "health_probes": "health probe",
        "observers": "observer",
        "commands": "command",
        "endpoints": "endpoint",
    }
    kinds = {
        "commands": "Command(help='Do it.', load=print)",
        "endpoints": "Endpoint(help='Serve it.', load=print)",
    }
    source = "".join(
        f"@hookimpl\ndef promenade_bus_{hook}():\n    return {{'mine': {value}}}\n"
        for hook in hooks
        for value in [kinds.get(hook, "FACTORY")]
    )
    site.install("everything", source)
    plugins = discover()
    for hook, kind in hooks.items():
        assert getattr(plugins, hook).select("mine").kind == kind
    assert [registry.kind for registry in plugins.registries] == list(hooks.values())


def test_topic_catalogues(site: Site) -> None:
    """Catalogues are listed by context, each with the distribution that declares it."""
    site.install("promenade-context-sales", CATALOGUE % ("sales", "sales.offer.sold"), version="2.1")
    site.install("promenade-context-art", CATALOGUE % ("art", "art.picture.sold"), version="3.0")
    plugins = discover()
    assert [(catalogue.context, origin) for catalogue, origin in plugins.catalogues] == [
        ("art", "promenade-context-art 3.0"),
        ("sales", "promenade-context-sales 2.1"),
    ]
    assert find(plugins, "sales").offers == (("topics", "sales"),)


def test_only_the_kinds_that_are_wanted_are_asked_for(site: Site) -> None:
    """With kinds, no other hook is called, not even one that would raise; the plugin counts as loaded."""
    source = """
        @hookimpl
        def promenade_bus_commands():
            return {"mine": Command(help="Do it.", load=print)}

        @hookimpl
        def promenade_bus_topics():
            raise LookupError("asked for topics")
    """
    site.install("mixed", source)
    plugins = discover(kinds=("command",))
    assert plugins.commands.names == ("mine",)
    assert find(plugins, "mixed").status == "loaded"
    assert find(plugins, "mixed").offers == (("command", "mine"),)
    assert plugins.retry_policies.names == ()  # nor is what is built in
    assert find(discover(), "mixed").cause == "LookupError: asked for topics"


def test_an_unknown_kind_is_an_error() -> None:
    """A kind that no hook is about is an error that lists the kinds."""
    with pytest.raises(ValueError, match=r"no plugin offers a 'colour'; kinds are: adapter, .*, topics"):
        discover(kinds=("colour",))


def test_sorted_by_name(site: Site) -> None:
    """Plugins are listed by name, in whatever order they lie on the disk."""
    for name in ("zebra", "ant", "moth"):
        site.install(name, ADAPTER % name)
    plugins = discover()
    assert [plugin.name for plugin in plugins.installed] == ["builtins", "ant", "moth", "zebra"]
    assert [offer.name for offer in plugins.adapters] == ["ant", "moth", "zebra"]


def test_one_entry_point_name_in_two_distributions(site: Site) -> None:
    """Two distributions may give their entry points the same name; both are loaded."""
    site.install("acme-memory", ADAPTER % "acme", entry_points={"memory": "fake_acme_memory"})
    site.install("other-memory", ADAPTER % "other", entry_points={"memory": "fake_other_memory"})
    plugins = discover()
    assert plugins.adapters.names == ("acme", "other")
    assert [plugin.distribution for plugin in plugins.installed[1:]] == ["acme-memory", "other-memory"]


def test_a_distribution_is_read_once(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two installations of one distribution only the first on the path counts, as for imports."""
    site.install("promenade-bus-memory", ADAPTER % "memory", version="2.0")
    old = Site(tmp_path / "old")
    old.install("promenade_bus.memory", ADAPTER % "memory", version="1.0")
    found = partial(importlib_metadata.distributions, path=[str(site.path), str(old.path)])
    monkeypatch.setattr("importlib_metadata.distributions", found)
    assert discover().adapters.select("memory").origin == "promenade-bus-memory 2.0"


def test_a_new_distribution_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that is installed while the process runs is seen by the next discovery."""
    site = Site(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "promenade-bus-late-comer"
    assert "late-comer" not in discover(only=[name]).adapters
    site.install(name, ADAPTER % "late-comer")
    try:
        assert discover(only=[name]).adapters.select("late-comer").origin == f"{name} 1.0"
    finally:
        site.forget_modules()


def test_hooks_are_called_once_per_discovery() -> None:
    """Discovery asks a plugin once; what it answered can be selected any number of times."""
    calls: list[int] = []

    def promenade_bus_adapters() -> dict[str, Any]:
        calls.append(1)
        return {"mine": FACTORY}

    plugins = discover(extra=[plugin_with(promenade_bus_adapters=promenade_bus_adapters)], only=[])
    for _ in range(3):
        plugins.adapters.select("mine")
    assert len(calls) == 1


# --- what is left out -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"disable": ["broken"]}, "listed under 'bus.plugins.disable'"),
        ({"disable": ["acme-broken"]}, "listed under 'bus.plugins.disable'"),
        ({"only": ["good"]}, "not listed under 'bus.plugins.only'"),
        ({"only": ["acme-good"]}, "not listed under 'bus.plugins.only'"),
        ({"environ": {"PROMENADE_BUS_PLUGINS": "OFF"}}, "PROMENADE_BUS_PLUGINS=off"),
    ],
)
def test_what_is_disabled_is_not_imported(site: Site, settings: dict[str, Any], cause: str) -> None:
    """A plugin that the settings exclude, by entry point or distribution, is listed and not imported."""
    site.install("acme-broken", "raise SystemExit", entry_points={"broken": "fake_acme_broken"})
    site.install("acme-good", ADAPTER % "good", entry_points={"good": "fake_acme_good"})
    plugin = find(discover(**settings), "broken")
    assert (plugin.status, plugin.cause) == ("disabled", cause)
    assert "fake_acme_broken" not in sys.modules


def test_only_nothing(site: Site) -> None:
    """An empty list of plugins means none of them, which is not the same as no list."""
    site.install("good", ADAPTER % "good")
    assert "good" in discover(only=None).adapters
    assert "good" not in discover(only=[]).adapters


def test_switched_off(site: Site) -> None:
    """With PROMENADE_BUS_PLUGINS=off the core's own offers and plugins given in code still work."""
    site.install("good", ADAPTER % "good")
    mine = plugin_with(promenade_bus_adapters=lambda: {"mine": FACTORY})
    plugins = discover(extra=[mine], environ={"PROMENADE_BUS_PLUGINS": "off"})
    assert plugins.adapters.names == ("mine",)
    assert plugins.serializers.names == ("json",)


def test_the_switch_is_read_from_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without other instructions the environment of the process counts."""
    site.install("good", ADAPTER % "good")
    monkeypatch.setenv("PROMENADE_BUS_PLUGINS", "off")
    assert discover().adapters.names == ()


def test_unknown_names_in_the_settings(site: Site) -> None:
    """A name in the settings that nothing has is tolerated, and found by the doctor with the nearest one."""
    site.install("promenade-bus-memory", ADAPTER % "memory")
    plugins = discover(disable=["memroy"])
    (finding,) = plugins.findings()
    assert finding.severity == "warning"
    assert (
        finding.what == "'bus.plugins.disable' names 'memroy', which is not installed; did you mean 'memory'?"
    )
    assert "memory" in plugins.adapters


def test_unknown_value_of_the_switch(site: Site) -> None:
    """A switch that is neither on nor off loads the plugins, and is found by the doctor."""
    site.install("good", ADAPTER % "good")
    plugins = discover(environ={"PROMENADE_BUS_PLUGINS": "of"})
    assert "good" in plugins.adapters
    assert [finding.plugin for finding in plugins.findings()] == ["PROMENADE_BUS_PLUGINS"]


# --- what is broken ---------------------------------------------------------------------------------------

NOT_IMPORTABLE = {
    "missing module": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "syntax error": ("def", "SyntaxError: "),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "no text": ("raise RuntimeError", "RuntimeError"),
    "many lines": ("raise RuntimeError('one\\ntwo')", "RuntimeError: one two"),
    "unprintable": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "Odd: (its message cannot be shown)",
    ),
}
BROKEN = {
    "raising hook": (
        "@hookimpl\ndef promenade_bus_adapters(): return 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
    "exiting hook": ("@hookimpl\ndef promenade_bus_adapters(): raise SystemExit", "SystemExit"),
    "newer hooks": (
        "PROMENADE_BUS_HOOKS = 99\n@hookimpl\ndef promenade_bus_streams(): return {}",
        "it needs version 99 of the hooks, and promenade-bus",
    ),
    "older hooks": (
        "PROMENADE_BUS_HOOKS = 0\n@hookimpl\ndef promenade_bus_adapters(): return {}",
        "it was written for version 0 of the hooks, and promenade-bus",
    ),
    "no version of hooks": (
        "PROMENADE_BUS_HOOKS = '1'\n@hookimpl\ndef promenade_bus_adapters(): return {}",
        "PROMENADE_BUS_HOOKS is '1', and must be a whole number",
    ),
    "no hook": ("def something(): pass", "it has no function marked with @hookimpl"),
    "bad topics": (
        "@hookimpl\ndef promenade_bus_topics(): return [TopicCatalogue('sales', [Topic('art.sold', Event)])]",
        "InvalidTopic: ",
    ),
}
MISSPELT = {
    "misspelt": (
        "@hookimpl\ndef promenade_bus_adaptors(): return {}",
        "'promenade_bus_adaptors' is not a hook; did you mean 'promenade_bus_adapters'?",
    ),
    "other prefix": (
        "@hookimpl\ndef bus_adapters(): return {}",
        "'bus_adapters' is not a hook; did you mean 'promenade_bus_adapters'?",
    ),
    "nothing like it": ("@hookimpl\ndef configure(): return {}", "'configure' is not a hook"),
    "not marked": (
        "def promenade_bus_adapters(): return {}",
        "'promenade_bus_adapters' is not marked with @hookimpl",
    ),
    "not marked and misspelt": (
        "def promenade_bus_topic(): return {}",
        "'promenade_bus_topic' is not a hook; did you mean 'promenade_bus_topics'?",
    ),
    "specname": (
        "@hookimpl(specname='promenade_bus_adaptor')\ndef adapters(): return {}",
        "'promenade_bus_adaptor' is not a hook",
    ),
    "arguments": (
        "@hookimpl\ndef promenade_bus_adapters(config): return {}",
        "Argument(s) {'config'} are declared in the hookimpl",
    ),
    "async": (
        "@hookimpl\nasync def promenade_bus_adapters(): return {}",
        "is async, but hooks are plain functions",
    ),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef promenade_bus_adapters(): return (yield)",
        "is a wrapper, but no plugin may change what others answer",
    ),
}
WRONG_ANSWERS = {
    "nothing": ("adapters", "None", "promenade_bus_adapters() returned None, not a mapping of names"),
    "a list": ("adapters", "[FACTORY]", "returned an object of type list, not a mapping of names"),
    "number as name": ("adapters", "{1: FACTORY}", "returned the name 1, not a str"),
    "empty name": ("adapters", "{'': FACTORY}", "returned the name '', not a str"),
    "no factory": (
        "middleware",
        "{'log': print}",
        "offers 'log' as an object of type builtin_function_or_method, not a bus_core.abc.Factory",
    ),
    "options of no class": (
        "adapters",
        "{'x': Factory(3, print)}",
        "offers 'x' with options that are no attrs class: 3",
    ),
    "plain options": (
        "adapters",
        "{'x': Factory(dict, print)}",
        "with options that are no attrs class: <class 'dict'>",
    ),
    "no build": ("adapters", "{'x': Factory(Options, None)}", "with a 'build' that cannot be called: None"),
    "one section": (
        "adapters",
        "{'x': Factory(Options, print, ('database.redis'))}",
        "with sections that are no tuple of str: 'database.redis'",
    ),
    "no check": (
        "adapters",
        "{'x': Factory(Options, print, (), 'check')}",
        "with a 'check' that cannot be called: 'check'",
    ),
    "no command": (
        "commands",
        "{'x': print}",
        "offers 'x' as an object of type builtin_function_or_method, not a bus_core.abc.Command",
    ),
    "no help": (
        "commands",
        "{'x': Command(help='', load=print)}",
        "with a 'help' that is no line of text: ''",
    ),
    "help of two lines": (
        "commands",
        "{'x': Command(help='Do it.\\nOr not.', load=print)}",
        "with a 'help' that is no line of text: 'Do it.\\nOr not.'",
    ),
    "no load": (
        "commands",
        "{'x': Command(help='Do it.', load=None)}",
        "with a 'load' that cannot be called: None",
    ),
    "one catalogue": (
        "topics",
        "TopicCatalogue('sales', [])",
        "promenade_bus_topics() returned one TopicCatalogue, not a list of them",
    ),
    "catalogues by name": (
        "topics",
        "{'sales': 1}",
        "returned an object of type dict, not a list of TopicCatalogue",
    ),
    "list of others": ("topics", "['sales']", "lists an object of type str, not a TopicCatalogue"),
}
IMPORTABLE = {
    **BROKEN,
    **MISSPELT,
    **{
        name: (f"@hookimpl\ndef promenade_bus_{hook}(): return {answer}", cause)
        for name, (hook, answer, cause) in WRONG_ANSWERS.items()
    },
}
ALL_BROKEN = {**NOT_IMPORTABLE, **IMPORTABLE}


@pytest.mark.parametrize(("source", "cause"), ALL_BROKEN.values(), ids=ALL_BROKEN)
def test_a_broken_plugin_is_quarantined(site: Site, source: str, cause: str) -> None:
    """A plugin that cannot be used is listed with its cause, and harms none of the others."""
    site.install("another", ADAPTER % "another")
    site.install("broken", source, version="0.3")
    site.install("yet-another", ADAPTER % "yet-another")
    plugins = discover()
    plugin = find(plugins, "broken")
    assert plugin.status == "quarantined"
    assert plugin.cause is not None
    assert cause in plugin.cause
    assert "\n" not in plugin.cause
    assert plugin.error is not None
    assert plugins.adapters.names == ("another", "yet-another")
    (finding,) = plugins.findings()
    assert (finding.severity, finding.plugin) == ("error", "broken (broken 0.3)")
    assert cause in finding.what
    assert "'broken' under 'bus.plugins.disable'" in finding.what_to_do


@pytest.mark.parametrize(("source", "cause"), IMPORTABLE.values(), ids=IMPORTABLE)
def test_a_broken_plugin_in_code_is_an_error(site: Site, source: str, cause: str) -> None:
    """The same faults in a plugin that is given in code are raised at once and name the plugin."""
    site.install("broken", source)
    with pytest.raises(InvalidPlugin) as caught:
        discover(extra=[importlib.import_module("fake_broken")], only=[])
    assert str(caught.value).startswith("the plugin fake_broken cannot be used: ")
    assert cause in str(caught.value)


def test_keyboard_interrupt_is_passed_on(site: Site) -> None:
    """Ctrl-C while a plugin is being imported ends the program, not the plugin."""
    site.install("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_all_or_nothing(site: Site) -> None:
    """Of a plugin that fails in one hook nothing is used, not even what its other hooks offer."""
    site.install(
        "half",
        (ADAPTER % "half") + "@hookimpl\ndef promenade_bus_middleware(): raise RuntimeError('no')",
    )
    plugins = discover()
    assert find(plugins, "half").status == "quarantined"
    assert "half" not in plugins.adapters


def test_every_misspelt_hook_is_named(site: Site) -> None:
    """One message names all the hooks of a plugin that are wrong."""
    site.install("broken", "@hookimpl\ndef promenade_bus_adaptor(): pass\ndef promenade_bus_topics(): pass")
    cause = find(discover(), "broken").cause
    assert cause is not None
    assert "promenade_bus_adaptor" in cause
    assert "promenade_bus_topics" in cause


def test_optional_hook_of_a_newer_core(site: Site) -> None:
    """A hook that the plugin itself marks as optional may be unknown."""
    site.install(
        "modern",
        (ADAPTER % "modern") + "@hookimpl(optionalhook=True)\ndef promenade_bus_novelty(): return {}",
    )
    plugins = discover()
    assert "modern" in plugins.adapters
    assert plugins.findings() == ()


def test_a_module_named_like_a_hook_is_no_fault(site: Site) -> None:
    """Other things in a plugin whose names begin like a hook's are none of our business."""
    site.install("fine", "import bus_core as promenade_bus_core\npromenade_bus_size = 3\n" + ADAPTER % "fine")
    assert "fine" in discover().adapters


def test_topics_of_two_owners(site: Site) -> None:
    """When two distributions declare one topic the first by name keeps it, and the other is quarantined."""
    site.install("zoo", CATALOGUE % ("art", "art.picture.sold"), version="1.1")
    site.install("art", CATALOGUE % ("art", "art.picture.sold"), version="3.0")
    plugins = discover()
    assert [origin for _, origin in plugins.catalogues] == ["art 3.0"]
    assert find(plugins, "zoo").cause == (
        "topic 'art.picture.sold' is already declared by art 3.0; one context owns a topic"
    )


def test_one_topic_in_two_catalogues_of_a_plugin(site: Site) -> None:
    """A plugin that declares one topic in two of its catalogues is quarantined."""
    source = CATALOGUE % ("art", "art.picture.sold")
    site.install("art", source.replace("Sold)])]", "Sold)])] * 2"))
    assert find(discover(), "art").cause == (
        "topic 'art.picture.sold' is already declared by its catalogue of 'art'; one context owns a topic"
    )


def test_one_module_in_two_distributions(site: Site) -> None:
    """A module that two distributions name as their plugin is used once."""
    site.install("first", ADAPTER % "first")
    site.install("second", "", entry_points={"second": "fake_first"})
    plugins = discover()
    assert plugins.adapters.select("first").origin == "first 1.0"
    assert find(plugins, "second").status == "quarantined"


def test_unreadable_metadata(site: Site) -> None:
    """A directory that an interrupted uninstall left behind is reported and changes nothing."""
    site.install("good", ADAPTER % "good")
    leftover = site.path / "left-over-1.0.dist-info"
    leftover.mkdir()
    (leftover / "entry_points.txt").write_text("[promenade_bus]\nleft = over\n")
    damaged = site.path / "damaged-1.0.dist-info"
    damaged.mkdir()
    (damaged / "entry_points.txt").write_bytes(b"\xff\xfe")
    plugins = discover()
    assert plugins.adapters.names == ("good",)
    for finding, path in zip(plugins.findings(), (damaged, leftover), strict=True):
        assert finding.plugin == str(path)
        assert "unreadable metadata" in finding.what


# --- selecting --------------------------------------------------------------------------------------------


def test_conflict(site: Site) -> None:
    """Two plugins that offer one name are an error when it is selected, a warning before."""
    site.install("acme", ADAPTER % "memory", version="1.0")
    site.install("zeta", (ADAPTER % "memory").replace("}", ", 'own': FACTORY}"), version="2.0")
    plugins = discover()
    assert plugins.adapters.select("own").origin == "zeta 2.0"
    with pytest.raises(PluginConflict) as caught:
        plugins.adapters.select("memory")
    assert str(caught.value) == (
        "adapter 'memory' is offered by acme 1.0 and zeta 2.0; "
        "uninstall one of them or list it under 'bus.plugins.disable'"
    )
    assert list(plugins.adapters.conflicts) == ["memory"]
    (finding,) = plugins.findings()
    assert (finding.severity, finding.plugin) == ("warning", "acme 1.0 and zeta 2.0")
    assert discover(disable=["acme"]).adapters.select("memory").origin == "zeta 2.0"


def test_conflict_with_a_built_in(site: Site) -> None:
    """A plugin cannot replace what the core offers behind the user's back."""
    site.install("fast", (ADAPTER % "json").replace("adapters", "serializers"))
    with pytest.raises(PluginConflict, match=r"offered by fast 1\.0 and promenade-bus"):
        discover().serializers.select("json")


def test_unknown_name(site: Site) -> None:
    """A name that nobody offers is an error that lists what is installed and the nearest names."""
    site.install("acme", ADAPTER % "carrier-pigeon")
    with pytest.raises(UnknownPlugin) as caught:
        discover().adapters.select("carrier-pidgeon")
    assert str(caught.value) == (
        "unknown adapter 'carrier-pidgeon'; did you mean 'carrier-pigeon'? installed: carrier-pigeon"
    )


def test_empty_name(site: Site) -> None:
    """Selecting nothing is an error that lists what is installed."""
    site.install("acme", ADAPTER % "carrier-pigeon")
    with pytest.raises(UnknownPlugin, match="no adapter is selected; installed: carrier-pigeon"):
        discover().adapters.select("")


@pytest.mark.parametrize(("kind", "name"), KNOWN)
def test_known_names_can_be_installed(site: Site, kind: str, name: str) -> None:
    """For a name of ours that is not installed the error says what to install, also when it is misspelt."""
    registry = next(registry for registry in discover().registries if registry.kind == kind)
    installed = ", ".join(registry.names) or "none"
    for typo in (name, name + "x"):
        with pytest.raises(UnknownPlugin) as caught:
            registry.select(typo)
        assert f"installed: {installed}; to install it: pip install {KNOWN[kind, name]}" in str(caught.value)


def test_quarantined_plugins_explain_an_unknown_name(site: Site) -> None:
    """The error lists every quarantined plugin with its cause, the one named like the selection first."""
    site.install("aaa", "raise RuntimeError('boom')")
    site.install("promenade-bus-redis", "import no_such_driver", version="0.2.0")
    with pytest.raises(UnknownPlugin) as caught:
        discover().adapters.select("redis")
    assert str(caught.value) == (
        "unknown adapter 'redis'; installed: none"
        "\n  quarantined: redis (promenade-bus-redis 0.2.0): "
        "ModuleNotFoundError: No module named 'no_such_driver'"
        "\n  quarantined: aaa (aaa 1.0): RuntimeError: boom"
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_the_distribution_of_an_unknown_name_comes_first(site: Site) -> None:
    """A quarantined distribution that is known to offer the selected name comes first."""
    site.install("aaa", "raise RuntimeError('boom')")
    site.install("promenade-bus-middleware", "raise RuntimeError('bang')")
    with pytest.raises(UnknownPlugin) as caught:
        discover().middleware.select("timeout")
    first = str(caught.value).splitlines()[1]
    assert first == "  quarantined: middleware (promenade-bus-middleware 1.0): RuntimeError: bang"


def test_disabled_plugins_explain_an_unknown_name(site: Site) -> None:
    """The error for a name of a disabled plugin says that it is disabled, not how to install it."""
    site.install("promenade-bus-memory", ADAPTER % "memory")
    with pytest.raises(UnknownPlugin) as caught:
        discover(environ={"PROMENADE_BUS_PLUGINS": "off"}).adapters.select("memory")
    assert str(caught.value) == (
        "unknown adapter 'memory'; installed: none"
        "\n  disabled: memory (promenade-bus-memory 1.0): PROMENADE_BUS_PLUGINS=off"
    )


# --- plugins given in code --------------------------------------------------------------------------------


@attrs.frozen
class Options:
    size: int = 1


FACTORY: Factory[Any, Any] = Factory(Options, lambda options, context: object())


@event
class Drawn(Event):
    pass


class Unhashable:
    """A plugin as an object with methods."""

    def __init__(self, name: str = "mine") -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)

    @hookimpl
    def promenade_bus_adapters(self) -> dict[str, Any]:
        return {self.name: FACTORY}


def test_an_object_as_plugin(site: Site) -> None:
    """An object with marked methods is a plugin; its offers say that it was given in code."""
    plugins = discover(extra=[Unhashable()])
    origin = plugins.adapters.select("mine").origin
    assert origin == f"{__name__}.Unhashable (given in code)"
    plugin = plugins.installed[-1]
    assert (plugin.distribution, plugin.status, str(plugin)) == (None, "loaded", origin)


def test_a_module_as_plugin(site: Site) -> None:
    """A module that is not installed can be given as it is."""
    module = ModuleType("my_plugin")
    vars(module)["promenade_bus_adapters"] = hookimpl(lambda: {"mine": FACTORY})
    plugins = discover(extra=[module])
    assert plugins.adapters.select("mine").origin == "my_plugin (given in code)"


def test_an_installed_module_given_in_code(site: Site) -> None:
    """A module that is installed as well is used once."""
    site.install("good", ADAPTER % "good")
    module = importlib.import_module("fake_good")
    plugins = discover(extra=[module, module])
    assert plugins.adapters.select("good").origin == "good 1.0"
    assert [plugin.name for plugin in plugins.installed] == ["builtins", "good"]


@pytest.mark.parametrize(
    "plugin", [object(), "memory", None, SimpleNamespace(run=print)], ids=lambda p: type(p).__name__
)
def test_no_plugin_at_all(site: Site, plugin: object) -> None:
    """An object without any hook is refused with the list of hooks."""
    with pytest.raises(InvalidPlugin, match=r"no function marked with @hookimpl \(hooks are: promenade_"):
        discover(extra=[plugin])


def test_a_class_instead_of_an_object(site: Site) -> None:
    """A class given instead of an object is refused with what to give."""
    with pytest.raises(InvalidPlugin, match="Unhashable cannot be used: it is a class; give an instance"):
        discover(extra=[Unhashable])


def test_conflict_with_a_plugin_in_code(site: Site) -> None:
    """A plugin in code does not replace an installed one silently."""
    site.install("acme", ADAPTER % "mine")
    with pytest.raises(PluginConflict, match=r"acme 1\.0 and .*given in code"):
        discover(extra=[Unhashable()]).adapters.select("mine")


def test_topics_in_code_that_have_an_owner(site: Site) -> None:
    """Topics in code that an installed distribution declares are an error at once."""
    site.install("art", CATALOGUE % ("art", "art.picture.sold"))
    mine = plugin_with(
        promenade_bus_topics=lambda: [TopicCatalogue("art", [Topic("art.picture.sold", Drawn)])]
    )
    with pytest.raises(InvalidPlugin, match=r"already declared by art 1\.0"):
        discover(extra=[mine])


# --- versions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirement", "fits"),
    [
        ("promenade-bus>=0.1,<0.2", True),
        ("promenade-bus (>=0.1.4,<0.2)", True),
        ("promenade_bus[standard]<0.2,>=0.1", True),
        ("promenade-bus", True),
        ("promenade-bus!=0.1.4", True),
        ("promenade-bus>=0.2,<0.3", False),
        ("promenade-bus>=0.0.1,<0.1", False),
        ("promenade-bus<=0.1.3", False),
        ("promenade-bus>0.1.4", False),
        ("promenade-bus>=0.1.4.0", True),
        ('promenade-bus>=0.2; extra == "modern"', True),
        ("promenade-bus-memory>=0.2", True),
        ("redis>=8", True),
    ],
)
def test_version_of_the_core(
    site: Site, monkeypatch: pytest.MonkeyPatch, requirement: str, fits: bool
) -> None:
    """A plugin that asks for another version of the core is loaded, and found by the doctor."""
    monkeypatch.setattr("importlib_metadata.version", lambda _: "0.1.4")
    site.install("acme", ADAPTER % "acme", requires=[requirement])
    plugins = discover()
    assert "acme" in plugins.adapters
    if fits:
        assert plugins.findings() == ()
    else:
        (finding,) = plugins.findings()
        assert finding.what.endswith("but promenade-bus 0.1.4 is installed")


def test_the_core_is_not_installed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a source tree without metadata everything works, only the version of the core is unknown."""

    def absent(name: str) -> str:
        raise importlib_metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib_metadata.version", absent)
    site.install("acme", ADAPTER % "acme", requires=["promenade-bus>=9"])
    plugins = discover()
    assert plugins.findings() == ()
    assert plugins.serializers.select("json").origin == "promenade-bus"


# --- the distributions of this repository -----------------------------------------------------------------


def test_install_hints_are_true() -> None:
    """The install hints agree with the offers of the first-party distributions."""
    plugins = discover()
    offered = {
        (registry.kind, offer.name): offer.origin.split()[0]
        for registry in plugins.registries
        for offer in registry
    }
    installed = {plugin.distribution for plugin in plugins.installed}
    for (kind, name), distribution in KNOWN.items():
        if distribution in installed:
            assert offered.get((kind, name)) == distribution
