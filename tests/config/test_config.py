"""The configuration of a bus: the keys of its section, choices of plugins, and every fault with its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import attrs
import pytest

from bus_core.config.bus_config import BusConfig, describe_config, load_config, read_config
from bus_core.config.bus_settings import HealthSettings, MiddlewareSettings, PluginSettings
from bus_core.config.choices import PluginChoice, read_choice
from bus_core.config.values import SECRET
from bus_core.errors import ConfigError
from bus_core.retry import ExponentialRetry, FixedRetry

CONFIG_FILES = sorted((Path(__file__).resolve().parents[2] / "config").glob("*.yaml"))


def load(bus: object, *, environ: Mapping[str, str] | None = None, **other: object) -> BusConfig:
    return load_config({"bus": bus, **other}, environ=environ or {})


def faults(bus: object, *, environ: Mapping[str, str] | None = None, **other: object) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(bus, environ=environ, **other)
    return caught.value.faults


def retry_of(config: BusConfig, topic: str | None = None) -> ExponentialRetry | None:
    found: list[str] = []
    choice = config.retry if topic is None else config.retry_for(topic)
    policy = read_choice(ExponentialRetry, choice, found)
    assert found == []
    return policy


def test_the_defaults() -> None:
    """An empty section means the documented defaults, and no adapter."""
    config = load(None)
    assert config == BusConfig()
    assert (config.adapter, config.service) == ("", "promenade")
    assert (config.worker_pool_size, config.buffer_size, config.overflow_size) == (10, 1000, 100_000)
    assert (config.publish_timeout, config.shutdown_timeout) == (10.0, 30.0)
    assert (config.strict_topics, config.fallback, config.topics) == (True, None, {})
    assert config.serializer == PluginChoice("json", {}, "$.bus.serializer")
    assert config.middleware == MiddlewareSettings(consume=(), publish=())
    assert config.health == HealthSettings(probes=(), timeout=1.0)
    assert config.plugins == PluginSettings(disable=(), only=None)
    assert retry_of(config) == ExponentialRetry(attempts=3, delay=0.1, max_delay=10.0, multiplier=2.0)


def test_every_key() -> None:
    """Every key of the section is read into the field of its name."""
    config = load(
        {
            "adapter": "redis",
            "service": "crm",
            "worker_pool_size": 50,
            "buffer_size": 10_000,
            "overflow_size": 5,
            "publish_timeout": "5s",
            "shutdown_timeout": timedelta(seconds=7),
            "retry": {"policy": "fixed", "attempts": 4, "delay": "2s"},
            "serializer": {"json": {"max_bytes": 5}},
            "strict_topics": False,
            "fallback": "memory",
            "middleware": {"consume": ["logging"], "publish": [{"timeout": {"seconds": 3}}, {"trace": None}]},
            "health": {"probes": ["engine", {"event-loop": {"limit": "50ms"}}], "timeout": "200ms"},
            "plugins": {"disable": ["a"], "only": []},
            "topics": {"customer.deal.*": {"retry": {"attempts": 10}}, "a.b": None},
            "redis": {"mode": "streams"},
        }
    )
    assert (config.adapter, config.service, config.worker_pool_size) == ("redis", "crm", 50)
    assert (config.buffer_size, config.overflow_size) == (10_000, 5)
    assert (config.publish_timeout, config.shutdown_timeout) == (5.0, 7.0)
    assert read_choice(FixedRetry, config.retry, []) == FixedRetry(attempts=4, delay=2.0)
    assert config.serializer == PluginChoice("json", {"max_bytes": 5}, "$.bus.serializer.json")
    assert (config.strict_topics, config.fallback) == (False, "memory")
    assert config.middleware == MiddlewareSettings(
        consume=(PluginChoice("logging", {}, "$.bus.middleware.consume[0]"),),
        publish=(
            PluginChoice("timeout", {"seconds": 3}, "$.bus.middleware.publish[0].timeout"),
            PluginChoice("trace", {}, "$.bus.middleware.publish[1].trace"),
        ),
    )
    assert [probe.name for probe in config.health.probes] == ["engine", "event-loop"]
    assert config.health.probes[1] == PluginChoice(
        "event-loop", {"limit": "50ms"}, "$.bus.health.probes[1].event-loop"
    )
    assert config.health.timeout == 0.2
    assert config.plugins == PluginSettings(disable=("a",), only=())
    assert set(config.topics) == {"customer.deal.*", "a.b"}
    assert config.adapter_choice() == PluginChoice("redis", {"mode": "streams"}, "$.bus.redis")


def test_a_bare_list_of_middleware_means_consume() -> None:
    """Middleware given as a list goes around handlers, in the order of the list."""
    config = load({"middleware": ["logging", {"timeout": {"seconds": 30}}]})
    assert config.middleware == MiddlewareSettings(
        consume=(
            PluginChoice("logging", {}, "$.bus.middleware[0]"),
            PluginChoice("timeout", {"seconds": 30}, "$.bus.middleware[1].timeout"),
        )
    )


@pytest.mark.parametrize(
    ("bus", "fault"),
    [
        ([], "expected a mapping @ $.bus"),
        ({"worker_pol_size": 5}, "unknown key 'worker_pol_size', did you mean 'worker_pool_size'? @ $.bus"),
        ({"retry_attemps": 5}, "unknown key 'retry_attemps', did you mean 'retry_attempts'? @ $.bus"),
        ({"topcs": {}}, "unknown key 'topcs', did you mean 'topics'? @ $.bus"),
        ({1: 5}, "the key 1 is not a text; put it in quotes @ $.bus"),
        ({True: {}}, "the key True is not a text; put it in quotes @ $.bus"),
        ({"adapter": 5}, "expected a text in quotes, got 5 @ $.bus.adapter"),
        ({"service": " "}, "service must be 1 to 100 printable characters @ $.bus.service"),
        ({"worker_pool_size": 0}, "'worker_pool_size' must be >= 1: 0 @ $.bus.worker_pool_size"),
        ({"worker_pool_size": "5"}, "expected a whole number, got '5' @ $.bus.worker_pool_size"),
        ({"buffer_size": 0}, "'buffer_size' must be >= 1: 0 @ $.bus.buffer_size"),
        ({"overflow_size": -1}, "'overflow_size' must be >= 0: -1 @ $.bus.overflow_size"),
        ({"publish_timeout": 0}, "'publish_timeout' must be > 0: 0.0 @ $.bus.publish_timeout"),
        ({"shutdown_timeout": "30"}, "'30' is not a duration; give it a unit @ $.bus.shutdown_timeout"),
        ({"strict_topics": "false"}, "expected true or false, got 'false' @ $.bus.strict_topics"),
        ({"fallback": "redis"}, "expected one of 'memory', got 'redis' @ $.bus.fallback"),
        (
            {"serializer": 5},
            "expected a name, or a name with its options as in {json: {...}} @ $.bus.serializer",
        ),
        (
            {"serializer": ""},
            "expected a name, or a name with its options as in {json: {...}} @ $.bus.serializer",
        ),
        (
            {"serializer": {"json": {}, "avro": {}}},
            "expected one name with its options, got 2 keys: json, avro @ $.bus.serializer",
        ),
        ({"serializer": {}}, "expected one name with its options, got 0 keys: none @ $.bus.serializer"),
        ({"serializer": {"json": 5}}, "the options of 'json' must be a mapping @ $.bus.serializer.json"),
        ({"serializer": {5: {}}}, "expected a name, got 5 @ $.bus.serializer"),
        ({"middleware": "logging"}, "expected a mapping, got a text @ $.bus.middleware"),
        (
            {"middleware": {"consumer": []}},
            "unknown key 'consumer', did you mean 'consume'? @ $.bus.middleware",
        ),
        ({"middleware": {"publish": "x"}}, "expected a list of names @ $.bus.middleware.publish"),
        (
            {"middleware": ["logging", {"timeout": {}, "trace": {}}]},
            "expected one name with its options, got 2 keys: timeout, trace @ $.bus.middleware[1]",
        ),
        ({"health": {"timeout": 0}}, "'timeout' must be > 0: 0.0 @ $.bus.health.timeout"),
        ({"health": {"probs": []}}, "unknown key 'probs', did you mean 'probes'? @ $.bus.health"),
        ({"plugins": {"disable": "x"}}, "expected a list, got 'x' @ $.bus.plugins.disable"),
        ({"plugins": {"onyl": []}}, "unknown key 'onyl', did you mean 'only'? @ $.bus.plugins"),
        ({"retry": "fixed"}, "expected a mapping such as {policy: exponential, attempts: 5} @ $.bus.retry"),
        ({"retry": {"policy": 5}}, "expected the name of a retry policy @ $.bus.retry.policy"),
        ({"topics": []}, "expected a mapping from topics or patterns to their settings @ $.bus.topics"),
        ({"topics": {5: {}}}, "the key 5 is not a text; put it in quotes @ $.bus.topics"),
        (
            {"topics": {"a.*": {"rety": {}}}},
            "unknown key 'rety', did you mean 'retry'? @ $.bus.topics['a.*']",
        ),
        (
            {"topics": {"a": {"retry": []}}},
            "expected a mapping such as {policy: exponential, attempts: 5} @ $.bus.topics.a.retry",
        ),
        (
            {"retry_attempts": 5, "retry_delay": 1, "retry": {}},
            "retry_attempts, retry_delay and 'retry' say the same thing; keep one of them @ $.bus",
        ),
        ({"adapter": "memory", "memory": 5}, "expected a mapping @ $.bus.memory"),
        (
            {"adapter": "redis", "redis": {"password": "${NOPE}"}},
            "the variable NOPE is not set; set it, or write ${NOPE:-default} @ $.bus.redis.password",
        ),
        (
            {"fallback": "memory", "memory": {"x": "${NOPE}"}},
            "the variable NOPE is not set; set it, or write ${NOPE:-default} @ $.bus.memory.x",
        ),
        (
            {"serializer": "${NOPE}"},
            "the variable NOPE is not set; set it, or write ${NOPE:-default} @ $.bus.serializer",
        ),
        (
            {"middleware": ["${NOPE}"]},
            "the variable NOPE is not set; set it, or write ${NOPE:-default} @ $.bus.middleware[0]",
        ),
        (
            {"retry": {"policy": "${NOPE}"}},
            "the variable NOPE is not set; set it, or write ${NOPE:-default} @ $.bus.retry.policy",
        ),
    ],
)
def test_each_fault_has_its_message(bus: object, fault: str) -> None:
    """Each fault is reported once, with advice and its path."""
    assert faults(bus) == (fault,)


def test_a_bad_pattern_is_a_fault() -> None:
    """The names under topics are topics or patterns."""
    (fault,) = faults({"topics": {"a..b": {}}})
    assert fault.startswith("invalid topic name 'a..b'")
    assert fault.endswith(" @ $.bus.topics")


def test_all_faults_are_reported_together() -> None:
    """One error carries every fault, in the text as well."""
    with pytest.raises(ConfigError) as caught:
        load({"worker_pol_size": 5, "buffer_size": "x", "redis": {}, "adapter": "${NOPE}"}, app={"name": 5})
    assert str(caught.value).splitlines() == [
        "<mapping>: 4 faults in the configuration",
        "  - the variable NOPE is not set; set it, or write ${NOPE:-default} @ $.bus.adapter",
        "  - unknown key 'worker_pol_size', did you mean 'worker_pool_size'? @ $.bus",
        "  - expected a whole number, got 'x' @ $.bus.buffer_size",
        "  - expected a text in quotes, got 5 @ $.app.name",
    ]


def test_what_is_sound_can_be_used_beside_the_faults() -> None:
    """A caller that looks for more faults gets a configuration with defaults for faulty values."""
    config, found = read_config({"bus": {"adapter": "memory", "buffer_size": 0, "worker_pool_size": 5}})
    assert (config.adapter, config.buffer_size, config.worker_pool_size) == ("memory", 1000, 5)
    assert len(found) == 1


# --- the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# nothing\n", "the file holds nothing but comments; it needs sections, one of them 'bus:'"),
        ("- a\n", "the file holds a list at the top; it needs sections, one of them 'bus:'"),
        ("text\n", "the file holds a str at the top; it needs sections, one of them 'bus:'"),
        (
            "app: {}\n",
            "there is no 'bus' section; add one, as in 'bus: {adapter: memory}' (found: 'app')",
        ),
        (
            "adapter: memory\n",
            "there is no 'bus' section; put the keys under 'bus:', as in {bus: {adapter: ...}}",
        ),
    ],
)
def test_a_file_without_a_bus_section(text: str, fault: str, tmp_path: Path) -> None:
    """A file that has no section of the bus is refused with what it has, and what to add."""
    path = tmp_path / "app.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert (caught.value.source, caught.value.faults) == (str(path), (fault,))


def test_a_file_is_named_in_its_faults(tmp_path: Path) -> None:
    """The error begins with the path as it was given."""
    path = tmp_path / "app.yaml"
    path.write_text("bus: {retry_delay: 1s, workers: 5}\n")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: 1 fault"):
        load_config(str(path))


def test_a_configuration_is_taken_as_it_is() -> None:
    """A BusConfig made in Python needs no reading."""
    config = BusConfig(adapter="memory")
    assert load_config(config) is config


def test_a_configuration_made_in_python_is_checked() -> None:
    """The rules bind code as they bind the file."""
    with pytest.raises(ValueError, match="worker_pool_size"):
        BusConfig(worker_pool_size=0)


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.name)
def test_the_files_of_this_repository_load(path: Path) -> None:
    """Each configuration file of the repository is sound without any variable being set."""
    config = load_config(path, environ={})
    assert config.adapter in ("memory", "redis", "sqlite")
    assert config.check_sections(["memory"]) == []
    assert describe_config(config)["bus"]["adapter"] == config.adapter
    assert retry_of(config) is not None


def test_there_are_files_to_load() -> None:
    """The three configuration files are where the documentation says."""
    assert [path.name for path in CONFIG_FILES] == [
        "app.postgres-dev.yaml",
        "app.postgres-prod.yaml",
        "app.sqlite-dev.yaml",
    ]


# --- service, sections, variables -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "bus", "service"),
    [
        ({"name": "crm"}, {}, "crm"),
        ({"name": "${NAME:-crm}", "other": "${NOPE}"}, {}, "crm"),
        ({"name": "${NAME:-5}"}, {}, "5"),
        ({}, {}, "promenade"),
        (None, {}, "promenade"),
        ({"name": None}, {}, "promenade"),
        ({"name": "crm"}, {"service": "mail"}, "mail"),
    ],
)
def test_the_service_is_named_after_the_application(app: Any, bus: object, service: str) -> None:
    """The service is bus.service, then app.name, then promenade; other keys of app do not matter."""
    assert load(bus, app=app).service == service


def test_other_sections_are_left_alone() -> None:
    """Unset variables, odd keys and odd values of the application's sections do not matter."""
    assert load({}, database={"url": "${NOPE}", 5: "${"}, server=[1]).adapter == ""


def test_a_foreign_section_is_expanded_when_it_is_asked_for() -> None:
    """A section that a plugin names comes with its variables expanded, and absent ones as None."""
    database = {
        "redis": {"addr": "${ADDR:-localhost:6379}", "pool_size": "${N}", "db": {"bus": 1}},
        "pg": "${NOPE}",
    }
    config = load({}, database=database, environ={"N": "20"})
    expected = {"addr": "localhost:6379", "pool_size": 20, "db": {"bus": 1}}
    assert config.section("database.redis") == expected
    assert config.section("database.redis.db") == {"bus": 1}
    assert config.section("database.sqlite") is None
    assert config.section("cache") is None


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (
            "database.pg",
            "the variable NOPE is not set; set it, or write ${NOPE:-default} @ $.database.pg.password",
        ),
        ("database.port", "expected a mapping @ $.database.port"),
        ("database.port.x", "expected a mapping @ $.database.port"),
    ],
)
def test_faults_of_a_foreign_section(path: str, fault: str) -> None:
    """A section that is asked for must be a mapping whose variables are set."""
    config = load({}, database={"pg": {"password": "${NOPE}"}, "port": 5})
    with pytest.raises(ConfigError) as caught:
        config.section(path)
    assert caught.value.faults == (fault,)


def test_variables_of_an_adapter_that_is_not_selected_do_not_matter() -> None:
    """The section of another adapter may hold variables that are set only where it runs."""
    config = load({"adapter": "memory", "redis": {"password": "${NOPE}"}})
    assert config.adapter_choice().options == {}
    with pytest.raises(ConfigError, match="NOPE is not set"):
        config.adapter_choice("redis")


def test_the_adapter_may_come_from_a_variable() -> None:
    """One file serves several environments."""
    bus = {
        "adapter": "${ADAPTER:-memory}",
        "redis": {"password": "${REDIS_PASSWORD}"},
        "worker_pool_size": "${N:-7}",
    }
    assert load(bus).adapter == "memory"
    assert load(bus).worker_pool_size == 7
    assert load(bus, environ={"ADAPTER": "redis", "REDIS_PASSWORD": "007"}).adapter_choice().options == {
        "password": 7
    }
    assert faults(bus, environ={"ADAPTER": "redis"})[0].startswith("the variable REDIS_PASSWORD is not set")


def test_variables_come_from_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping of variables those of the process count."""
    monkeypatch.setenv("PROMENADE_TEST_WORKERS", "3")
    assert load_config({"bus": {"worker_pool_size": "${PROMENADE_TEST_WORKERS}"}}).worker_pool_size == 3


def test_sections_of_adapters_are_tolerated() -> None:
    """Sections of the selected adapter, of installed ones, and of first-party ones have an owner."""
    config = load({"adapter": "nats", "nats": {}, "redis": {}, "memory": None, "kafka": {}})
    assert config.check_sections(["kafka"]) == []


def test_sections_of_nobody_are_faults() -> None:
    """A section that belongs to no adapter is an unknown key."""
    config = load({"adapter": "redis", "redsi": {}, "colours": {}})
    first, second = config.check_sections(["memory"])
    assert first == "unknown key 'redsi', did you mean 'redis'? @ $.bus"
    assert second.startswith("unknown key 'colours'; known: adapter, service, worker_pool_size, ")


# --- retry ------------------------------------------------------------------------------------------------


def test_the_short_form_of_retry() -> None:
    """retry_attempts and its like configure the exponential policy."""
    bus = {"retry_attempts": 5, "retry_delay": "1s", "retry_max_delay": "30s", "retry_multiplier": 3}
    assert retry_of(load(bus)) == ExponentialRetry(attempts=5, delay=1.0, max_delay=30.0, multiplier=3.0)


def test_the_long_form_of_retry_without_a_policy_is_exponential() -> None:
    """The policy may be left out."""
    assert load({"retry": {"attempts": 5}}).retry == PluginChoice(
        "exponential", {"attempts": 5}, "$.bus.retry"
    )


def test_faults_of_the_short_form_have_its_paths() -> None:
    """A fault of an option names the key that was written."""
    config = load({"retry_attempts": 0, "retry_delay": "soon"})
    found: list[str] = []
    assert read_choice(ExponentialRetry, config.retry, found) is None
    assert found == [
        "'soon' is not a duration; write it as 100ms, 5s, 1h30m or 7d @ $.bus.retry_delay",
        "attempts must be a finite number of at least 1, got 0 @ $.bus.retry_attempts",
    ]


def test_the_short_form_takes_variables() -> None:
    """A variable with a number and one with a duration both fit."""
    bus = {"retry_attempts": "${N}", "retry_delay": "${D:-2s}"}
    assert retry_of(load(bus, environ={"N": "4"})) == ExponentialRetry(attempts=4, delay=2.0)


TOPICS = {
    "#": {"retry": {"attempts": 2}},
    "customer.#": {"retry": {"attempts": 4}},
    "customer.deal.*": {"retry": {"attempts": 5}},
    "customer.deal.won": {"retry": {"attempts": 6}},
    "customer.deal.lost": {},
    "identity.*.*": {"retry": {"policy": "fixed", "delay": "1s"}},
}


@pytest.mark.parametrize(
    ("topic", "attempts"),
    [
        ("customer.deal.won", 6),
        ("customer.deal.created", 5),
        ("customer.deal.lost", 5),
        ("customer.company.created", 4),
        ("shared.country.created", 2),
    ],
)
def test_the_most_specific_pattern_decides(topic: str, attempts: int) -> None:
    """Of several names and patterns that cover a topic the most specific one with a retry counts."""
    policy = retry_of(load({"retry_delay": "3s", "topics": TOPICS}), topic)
    assert policy == ExponentialRetry(attempts=attempts, delay=3.0)


def test_another_policy_inherits_nothing() -> None:
    """Where an entry names another policy, the bus's options do not apply."""
    choice = load({"retry_attempts": 9, "topics": TOPICS}).retry_for("identity.user.registered")
    assert choice == PluginChoice("fixed", {"delay": "1s"}, "$.bus.topics['identity.*.*'].retry")


def test_a_topic_that_nothing_covers_has_the_policy_of_the_bus() -> None:
    """Without an entry the bus's policy applies."""
    config = load({"topics": {"a.b": {"retry": {}}}})
    assert config.retry_for("a.c") is config.retry


def test_faults_of_a_topic_have_its_path_and_inherited_ones_their_own() -> None:
    """Options of an entry are reported where they stand, and those of the bus where these stand."""
    config = load({"retry_delay": "soon", "topics": {"a.*": {"retry": {"attempts": "x"}}}})
    found: list[str] = []
    read_choice(ExponentialRetry, config.retry_for("a.b"), found)
    assert found == [
        "'soon' is not a duration; write it as 100ms, 5s, 1h30m or 7d @ $.bus.retry_delay",
        "expected a whole number, got 'x' @ $.bus.topics['a.*'].retry.attempts",
    ]


# --- secrets and listings ---------------------------------------------------------------------------------


@attrs.frozen
class AdapterOptions:
    password: Annotated[str, SECRET] = ""
    db: int = 0


def test_a_password_of_digits_from_a_variable_arrives_unchanged() -> None:
    """The options of a choice keep the text of a variable for a field that wants a text."""
    config = load(
        {"adapter": "redis", "redis": {"password": "${P}", "db": "${D}"}}, environ={"P": "007", "D": "1"}
    )
    assert read_choice(AdapterOptions, config.adapter_choice(), []) == AdapterOptions("007", 1)


def test_secrets_do_not_show() -> None:
    """Neither the repr nor the description of a configuration holds a secret."""
    config = load(
        {
            "adapter": "redis",
            "redis": {
                "password": "hunter2",
                "url": "redis://me:hunter2@host",
                "tls": {"private_key": "hunter2"},
            },
            "middleware": [{"trace": {"token": "hunter2"}}],
            "serializer": {"signed": {"secret": "hunter2"}},
            "retry": {"policy": "custom", "api_key": "hunter2"},
            "topics": {"a.b": {"retry": {"credential": "hunter2"}}},
            "nats": {"dsn": "${X:-hunter2}"},
        },
        database={"password": "hunter2"},
    )
    for text in (repr(config), repr(config.adapter_choice()), str(describe_config(config))):
        assert "hunter2" not in text
    assert describe_config(config)["bus"]["redis"] == {
        "password": "***",
        "url": "redis://***@host",
        "tls": {"private_key": "***"},
    }


def test_the_description_has_the_shape_of_the_file() -> None:
    """The description of a configuration can be written to a file and means the same."""
    bus: dict[str, Any] = {
        "adapter": "memory",
        "retry": {"policy": "fixed", "delay": "1m30s"},
        "middleware": {"consume": ["logging", {"timeout": {"seconds": 3}}], "publish": []},
        "health": {"probes": ["engine"], "timeout": "500ms"},
        "topics": {"a.*": {"retry": {"attempts": 2}}},
        "memory": {"serialize": True},
    }
    described = describe_config(load(bus, app={"name": "crm"}))
    assert described["bus"].items() >= bus.items()
    assert (described["bus"]["service"], described["bus"]["shutdown_timeout"]) == ("crm", "30s")
    assert describe_config(load_config(described)) == described
