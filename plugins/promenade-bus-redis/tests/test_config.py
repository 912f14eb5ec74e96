from __future__ import annotations

import traceback
from typing import Any

import pytest

from bus_core import ConfigError, Factory, check_config, hookimpl, load_config, open_bus
from bus_core.config import read_settings, render_settings
from bus_core.config.bus_config import describe_config
from promenade_bus_redis.addresses import Address, RedisUrl, parse_address, parse_url
from promenade_bus_redis.config import RedisOptions, RetentionOptions, SentinelOptions, TlsOptions
from promenade_bus_redis.server.target import SECTION, Target, check_options, resolve_target

SECRET = "hunter2-s3cret"


def read(own: Any = None, foreign: Any = None) -> tuple[RedisOptions | None, list[str]]:
    """The options, and every fault of both sections."""
    faults: list[str] = []
    options = read_settings(RedisOptions, own or {}, "$.bus.redis", faults)
    faults += check_options(options, {} if foreign is None else {SECTION: foreign})
    return options, faults


def target(own: Any = None, foreign: Any = None) -> Target:
    options, faults = read(own, foreign)
    assert faults == []
    assert options is not None
    return resolve_target(options, {} if foreign is None else {SECTION: foreign})


# --- addresses and URLs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", Address("localhost", 6379)),
        (" redis.internal:6380 ", Address("redis.internal", 6380)),
        ("10.0.0.1:1", Address("10.0.0.1", 1)),
        ("my_redis:65535", Address("my_redis", 65535)),
        ("[::1]:6380", Address("::1", 6380)),
        ("[fe80::1%eth0]", Address("fe80::1%eth0", 6379)),
        ("/run/redis/redis.sock", Address(path="/run/redis/redis.sock")),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    """An address is a host with or without a port, or the path of a socket, and reads back as it is shown."""
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected host:port or the path of a socket, got nothing"),
        ("a b", "expected host:port or the path of a socket$"),
        (":6379", "expected host:port or the path of a socket$"),
        ("host:0", "expected a port from 1 to 65535 behind the colon"),
        ("host:65536", "expected a port from 1 to 65535 behind the colon"),
        ("host:6379x", "expected a port from 1 to 65535 behind the colon"),
        ("host:٣", "expected a port from 1 to 65535 behind the colon"),
        ("::1", r"put an IPv6 address in brackets"),
        ("[::1", r"expected \[ipv6\]:port, with"),
        ("[::1]6379", r"expected \[ipv6\]:port"),
        ("redis://host", "expected host:port, got a URL; give it as 'url'"),
        (f"me:{SECRET}@host", "no user and password; give them as"),
    ],
)
def test_bad_addresses(text: str, reason: str) -> None:
    """The fault of an address is reported, without anything that may be a password."""
    with pytest.raises(ValueError, match=reason) as caught:
        parse_address(text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        (
            "redis://localhost",
            RedisUrl(scheme="redis", address=Address("localhost", 6379)),
            "redis://localhost:6379",
        ),
        (
            "rediss://me:p%40ss%2Fw@host:7/3",
            RedisUrl(scheme="rediss", address=Address("host", 7), username="me", password="p@ss/w", db=3),
            "rediss://***@host:7/3",
        ),
        (
            "redis://:secret@[::1]:7?db=2",
            RedisUrl(scheme="redis", address=Address("::1", 7), password="secret", db=2),
            "redis://***@[::1]:7/2",
        ),
        (
            "unix:///run/redis.sock?db=1",
            RedisUrl(scheme="unix", address=Address(path="/run/redis.sock"), db=1),
            "unix:///run/redis.sock?db=1",
        ),
        (
            "unix://me:secret@/run/redis.sock",
            RedisUrl(
                scheme="unix", address=Address(path="/run/redis.sock"), username="me", password="secret"
            ),
            "unix://***@/run/redis.sock",
        ),
    ],
)
def test_urls(text: str, expected: RedisUrl, shown: str) -> None:
    """A URL says where, as whom and which database; shown, it says nothing of whom."""
    url = parse_url(text)
    assert url == expected
    assert str(url) == shown
    assert repr(url).count("***") == 0
    assert url.password is None or url.password not in repr(url)


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("localhost:6379", ["expected redis://, rediss:// or unix:// before the address"]),
        (f"http://me:{SECRET}@host", ["expected redis://, rediss:// or unix://"]),
        (f"//me:{SECRET}@host", ["expected redis://, rediss:// or unix://"]),
        ("redis://", ["the host is missing"]),
        (f"redis://me:{SECRET}@", ["the host is missing"]),
        (f"redis://me:{SECRET}@host:99999", ["expected a port from 1 to 65535"]),
        (
            f"redis://me:{SECRET}@host/x?timeout=5",
            ["the database is not a number", "a parameter other than db"],
        ),
        ("redis://host/1?db=2", ["the database is given twice"]),
        ("redis://host/1#2", ["no fragment"]),
        (f"redis://me:{SECRET}@[::1", ["is invalid"]),
        ("unix://run/redis.sock", ["three slashes"]),
        ("unix://", ["the path of the socket is missing"]),
    ],
)
def test_bad_urls(text: str, reasons: list[str]) -> None:
    """Everything that is wrong with a URL is said at once, and nothing of its password."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_url(text)
    for reason in reasons:
        assert reason in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("odd", [*"@/?#:%[] \\&={$\n\x1b", "://", ""])
@pytest.mark.parametrize(
    "place",
    [
        "redis://me:{}@host:6379/0",
        "redis://:{}@host",
        "redis://{}@host",
        "redis://me:{}",
        "redis://host/{}",
        "redis://host?password={}",
        "redis://host#{}",
        "rediss://me:{}@host:port",
        "unix://me:{}@/path?db=1",
        "http://me:{}@host",
        "{}://host",
        "me:{}@host:6379",
        "host:6379:{}",
        "[{}]:6379",
        "host:{}",
        "{}:6379",
        "{}",
    ],
)
def test_no_piece_of_a_password_shows(place: str, odd: str) -> None:
    """However a password is written, and wherever, no error and no repr holds a piece of it."""
    pieces = ("hunter2", "s3cret")
    text = place.format(f"hunter2{odd}s3cret{odd}")
    for parse in (parse_url, parse_address):
        try:
            shown = repr(parse(text)) if parse is parse_url else ""
        except ValueError as error:
            shown = "".join(traceback.format_exception(error)[-1:]) + repr(error.__context__)
        assert not any(piece in shown for piece in pieces)
    for option in ("url", "addr"):
        _, faults = read({option: text})
        assert not any(piece in fault for fault in faults for piece in pieces)


# --- where the adapter connects ---------------------------------------------------------------------------


def test_defaults() -> None:
    """Without any configuration it is the server of this machine."""
    assert target() == Target(addresses=(Address("localhost", 6379),), db=0, pool_size=10)
    options, _ = read()
    assert options is not None
    assert (options.mode, options.prefix, options.lease, options.durability) == (
        "streams",
        "bus",
        30,
        "server",
    )
    assert (options.heartbeat_interval, options.wanted_replicas, options.wait_seconds) == (5.0, 0, 3.0)
    assert options.retention == RetentionOptions(min_age=3600, unsubscribed_max_age=604800)


def test_the_section_of_the_application() -> None:
    """``database.redis`` says where the server is; what else is in it is left alone."""
    foreign = {
        "addr": "redis.internal:6380",
        "password": SECRET,
        "pool_size": 20,
        "databases": {"bus": 1, "cache": "2", "sessions": None},
        "max_retries": "three",
        "dial_timeout": {"odd": True},
    }
    found = target(None, foreign)
    assert found.addresses == (Address("redis.internal", 6380),)
    assert (found.password, found.db, found.pool_size, found.tls) == (SECRET, 1, 20, None)
    assert target(None, {**foreign, "password": ""}).password == ""


def test_the_bus_wins() -> None:
    """Each key of ``bus.redis`` wins over the same one of ``database.redis``."""
    foreign = {"addr": "a:1", "username": "app", "password": "x", "pool_size": 5, "databases": {"bus": 1}}
    own = {"addr": "b:2", "username": "bus", "password": SECRET, "db": 0, "pool_size": 7}
    found = target(own, foreign)
    assert found == Target(addresses=(Address("b", 2),), username="bus", password=SECRET, db=0, pool_size=7)
    assert target({"password": SECRET}, foreign) == Target(
        addresses=(Address("a", 1),), username="app", password=SECRET, db=1, pool_size=5
    )


def test_a_url() -> None:
    """A URL names the whole server: the application's user, password and TLS do not go there."""
    foreign = {"addr": "a:1", "username": "app", "password": "x", "tls": True, "databases": {"bus": 3}}
    assert target({"url": "redis://b:2"}, foreign) == Target(addresses=(Address("b", 2),), db=3)
    found = target({"url": f"rediss://me:{SECRET}@b:2/1"}, foreign)
    assert (found.username, found.password, found.db, found.tls) == ("me", SECRET, 1, TlsOptions())
    assert target({"url": "redis://b:2", "password": SECRET}).password == SECRET
    assert target({"url": "redis://b:2", "tls": {"verify": "ca"}}).tls == TlsOptions(verify="ca")


def test_tls() -> None:
    """TLS is asked for by true, by its options, or by the section of the application."""
    options: dict[str, Any] = {
        "ca_file": "ca.pem",
        "cert_file": "c.pem",
        "key_file": "k.pem",
        "server_name": "redis",
    }
    assert target({"tls": True}).tls == TlsOptions()
    assert target({"tls": options}).tls == TlsOptions(**options)
    assert target({}, {"tls": options}).tls == TlsOptions(**options)
    assert target({"tls": False}, {"tls": options}).tls is None


def test_sentinel_and_cluster() -> None:
    """Sentinels tell where the primary is; a cluster is found from the nodes that are named."""
    sentinel = {"addresses": ["s1", "s2:1"], "service": "promenade", "password": "psst"}
    found = target({"sentinel": sentinel, "tls": True}, {"addr": "ignored:1", "password": SECRET})
    assert (found.kind, found.service, found.password) == ("sentinel", "promenade", SECRET)
    assert found.addresses == (Address("s1", 26379), Address("s2", 1))
    assert (found.sentinel_password, found.sentinel_tls) == ("psst", True)
    assert target({"sentinel": {**sentinel, "tls": False}, "tls": True}).sentinel_tls is False
    assert target({"sentinel": {**sentinel, "addresses": "s1, s2"}}).addresses[1] == Address("s2", 26379)
    seeds = target({"cluster": ["a:1", "b:2", "a:1"]}, {"addr": "c:3"})
    assert (seeds.kind, seeds.addresses) == ("cluster", (Address("a", 1), Address("b", 2)))
    assert target({"cluster": True}, {"addr": "c:3"}).addresses == (Address("c", 3),)
    assert target({"cluster": True, "url": "redis://d:4"}).addresses == (Address("d", 4),)


def test_a_target_says_where() -> None:
    """The name of a target in messages has places, and no password."""
    sentinel = {"addresses": ["s1"], "service": "promenade", "username": "u", "password": SECRET}
    own = {"sentinel": sentinel, "username": "me", "password": SECRET}
    found = target(own)
    assert str(found) == "the primary of 'promenade', as the sentinels at s1:26379 know it"
    assert str(target()) == "the server at localhost:6379"
    assert str(target({"cluster": ["a", "b"]})) == "the cluster at a:6379, b:6379"
    assert SECRET not in repr(found)


# --- faults -----------------------------------------------------------------------------------------------

CA = {"ca_file": "ca.pem", "verify": "none"}
SENTINEL = {"addresses": ["s1"], "service": "x"}


@pytest.mark.parametrize(
    ("own", "foreign", "fault"),
    [
        ({"adr": "x"}, None, "unknown key 'adr', did you mean 'addr'? @ $.bus.redis"),
        ({"mode": "stream"}, None, "did you mean 'streams'? @ $.bus.redis.mode"),
        ({"addr": "x:y"}, None, "expected a port from 1 to 65535 behind the colon @ $.bus.redis.addr"),
        ({"addr": 6379}, None, "expected host:port or the path of a socket, as a text @ $.bus.redis.addr"),
        ({"url": "http://x"}, None, "unix:// before the address @ $.bus.redis.url"),
        ({"url": ["x"]}, None, "expected a URL such as redis://host:6379/0, as a text @ $.bus.redis.url"),
        ({"db": -1}, None, "$.bus.redis.db"),
        ({"db": "1"}, None, "expected a whole number"),
        ({"pool_size": 0}, None, "$.bus.redis.pool_size"),
        ({"prefix": "a{b}"}, None, "prefix must be 1 to 64 letters, digits"),
        ({"prefix": ""}, None, "$.bus.redis.prefix"),
        ({"consumer": "a b"}, None, "consumer must be 1 to 64 letters, digits"),
        ({"lease": 0}, None, "$.bus.redis.lease"),
        ({"lease": "30"}, None, "give it a unit @ $.bus.redis.lease"),
        (
            {"lease": "10s", "heartbeat": "4s"},
            None,
            "a lease of 10s is renewed every 4s: it must be at least three heartbeats, 12s, so that a late "
            "one loses nothing @ $.bus.redis.lease",
        ),
        ({"heartbeat": 0}, None, "$.bus.redis.heartbeat"),
        ({"block": 0}, None, "$.bus.redis.block"),
        ({"block": "2m"}, None, "$.bus.redis.block"),
        ({"connect_timeout": 0}, None, "$.bus.redis.connect_timeout"),
        ({"command_timeout": 0}, None, "$.bus.redis.command_timeout"),
        ({"durability": "disk"}, None, "$.bus.redis.durability"),
        ({"replicas": 2}, None, "'replicas' applies only to durability: replicated"),
        ({"replicas": 0, "durability": "replicated"}, None, "$.bus.redis.replicas"),
        ({"wait_timeout": "1s"}, None, "'wait_timeout' does not apply to durability: server"),
        (
            {"durability": "fsync", "wait_timeout": "5s"},
            None,
            "must be shorter than command_timeout, 5s, got 5s @ $.bus.redis.wait_timeout",
        ),
        (
            {"durability": "replicated", "command_timeout": "500ms"},
            None,
            "must be shorter than command_timeout, 500ms, got 3s @ $.bus.redis.wait_timeout",
        ),
        (
            {"mode": "pubsub", "durability": "fsync"},
            None,
            "mode: pubsub stores nothing and cannot provide durability: fsync @ $.bus.redis.durability",
        ),
        (
            {"retention": {"min_age": "5s"}},
            None,
            "keep events at least twice as long, 10s @ $.bus.redis.retention.min_age",
        ),
        (
            {"retention": {"unsubscribed_max_age": "5m"}},
            None,
            "must not be shorter than min_age, 1h @ $.bus.redis.retention.unsubscribed_max_age",
        ),
        ({"retention": {"max_length": 0}}, None, "$.bus.redis.retention.max_length"),
        ({"retention": {"max_lenght": 1}}, None, "did you mean 'max_length'? @ $.bus.redis.retention"),
        ({"url": "redis://a", "addr": "b"}, None, "'url' and 'addr' both set the server; remove one"),
        ({"url": "redis://a/1", "db": 1}, None, "'db' and 'url' both set this; remove one @ $.bus.redis.db"),
        ({"url": "redis://:x@a", "password": "x"}, None, "'password' and 'url' both set this"),
        ({"url": "redis://u:x@a", "username": "u"}, None, "'username' and 'url' both set this"),
        ({"url": "rediss://a", "tls": False}, None, "the URL enables TLS and 'tls' disables it"),
        (
            {"url": "unix:///s", "tls": True},
            None,
            "a Unix socket has no TLS; remove 'tls' @ $.bus.redis.url",
        ),
        ({"addr": "/s", "tls": True}, None, "a Unix socket has no TLS; remove 'tls' @ $.bus.redis.addr"),
        ({"tls": CA}, None, "'ca_file' without verification"),
        ({"tls": {"key_file": "k"}}, None, "'key_file' without 'cert_file' @ $.bus.redis.tls.key_file"),
        ({"tls": {"verify": "ca", "server_name": "x"}}, None, "@ $.bus.redis.tls.server_name"),
        ({"tls": "yes"}, None, "$.bus.redis.tls"),
        ({"tls": {"verfy": "ca"}}, None, "did you mean 'verify'? @ $.bus.redis.tls"),
        ({"username": "me"}, None, "a username without a password"),
        ({"sentinel": SENTINEL, "cluster": True}, None, "use either 'sentinel' or 'cluster', not both"),
        ({"sentinel": SENTINEL, "addr": "a"}, None, "the sentinels name the server; remove 'addr'"),
        ({"sentinel": SENTINEL, "url": "redis://a"}, None, "remove 'url' @ $.bus.redis.url"),
        ({"sentinel": {"service": "x"}}, None, "the key 'addresses' is required @ $.bus.redis.sentinel"),
        ({"sentinel": {**SENTINEL, "addresses": []}}, None, "expected a list of host:port"),
        ({"sentinel": {**SENTINEL, "addresses": ["/s"]}}, None, "@ $.bus.redis.sentinel.addresses[0]"),
        ({"sentinel": {**SENTINEL, "addresses": ["a:x"]}}, None, "@ $.bus.redis.sentinel.addresses[0]"),
        (
            {"sentinel": {**SENTINEL, "service": "a b"}},
            None,
            "service must be the name of a monitored",
        ),
        (
            {"cluster": ["a"], "addr": "b"},
            None,
            "'cluster' lists the nodes; remove 'addr' @ $.bus.redis.addr",
        ),
        ({"cluster": 5}, None, "expected a list of host:port @ $.bus.redis.cluster"),
        ({"cluster": ["/s"]}, None, "not by the path of a socket @ $.bus.redis.cluster"),
        ({"cluster": True, "db": 1}, None, "a cluster has only the database 0, got 1 @ $.bus.redis.db"),
        ({"cluster": True, "url": "redis://a/1"}, None, "got 1 @ $.bus.redis.url"),
        ({"cluster": True}, {"databases": {"bus": 1}}, "got 1 @ $.database.redis.databases.bus"),
        ({"cluster": True}, {"addr": "/s"}, "not by a socket @ $.database.redis.addr"),
        ({}, {"addr": "a:b"}, "behind the colon @ $.database.redis.addr"),
        ({}, {"addr": ""}, "got nothing @ $.database.redis.addr"),
        ({}, {"pool_size": "many"}, "$.database.redis.pool_size"),
        (
            {},
            {"databases": {"bus": "1"}},
            "the number of a database @ $.database.redis.databases.bus",
        ),
        ({}, {"databases": [1]}, "expected a mapping of names to databases @ $.database.redis.databases"),
        ({}, {"tls": {"key_file": "k"}}, "@ $.database.redis.tls.key_file"),
        ({}, "localhost:6379", "expected a mapping"),
    ],
)
def test_faults(own: Any, foreign: Any, fault: str) -> None:
    """Each rule that is broken is told once, with the path of what breaks it and what to do."""
    _, faults = read(own, foreign)
    assert [fault in told for told in faults] == [True]


def test_all_faults_together() -> None:
    """Faults of single options, of several together and of the foreign section come in one answer."""
    _, faults = read(
        {"lease": "1s", "heartbeat": "1s", "replicas": 1, "tls": CA}, {"addr": "a:b", "pool_size": 0}
    )
    assert len(faults) == 5
    _, faults = read({"db": "x", "prefix": "{}"}, {"addr": "a:b"})
    assert len(faults) == 3


# --- secrets ----------------------------------------------------------------------------------------------

OWN = {
    "url": f"rediss://me:{SECRET}@host:1/2",
    "sentinel": {"addresses": ["a"], "service": "s", "password": SECRET},
    "tls": {"key_password": SECRET},
    "password": SECRET,
}


def test_secrets_do_not_show() -> None:
    """No repr, no listing and no fault has a password or the user information of a URL."""
    faults: list[str] = []
    options = read_settings(RedisOptions, OWN, "$.bus.redis", faults)
    assert options is not None
    texts = [repr(options), str(render_settings(options)), *faults, *check_options(options, {})]
    found = target({"url": OWN["url"]})
    texts += [repr(found), str(found), repr(SentinelOptions(addresses=(), service="x", password=SECRET))]
    assert all(SECRET not in text for text in texts)
    assert render_settings(options)["url"] == "rediss://***@host:1/2"
    assert render_settings(options)["sentinel"]["password"] == "***"
    with pytest.raises(ValueError, match=r"not both|both set") as caught:
        resolve_target(options, {})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "broken", [{"db": f"{SECRET}"}, {"url": f"rediss://me:{SECRET}@host:x"}, {"addr": f"me:{SECRET}@host"}]
)
def test_secrets_do_not_show_in_faults(broken: dict[str, Any]) -> None:
    """A password that is part of what is wrong is not repeated."""
    _, faults = read({**OWN, **broken}, {"password": [SECRET], "addr": f"redis://:{SECRET}@host"})
    assert faults
    assert [fault for fault in faults if SECRET in fault and "$.bus.redis.db" not in fault] == []


class Plugin:
    """Offers the options without the adapter."""

    @hookimpl
    def promenade_bus_adapters(self) -> dict[str, Factory[Any, Any]]:
        factory = Factory(RedisOptions, lambda options, context: None, (SECTION,), check_options)
        return {"redis-options": factory}


def test_in_a_configuration_file(tmp_path: Any) -> None:
    """The faults of both sections are told by ``open_bus`` and ``config check``, and secrets by none."""
    path = tmp_path / "app.yaml"
    path.write_text(
        "database: {redis: {addr: '${ADDR}', password: '${PASSWORD}', databases: {bus: x}}}\n"
        "bus: {adapter: redis-options, redis-options: {lease: 1s, heartbeat: 1s, adrr: 5}}\n"
    )
    environ = {"ADDR": "host:port", "PASSWORD": SECRET}
    with pytest.raises(ConfigError) as caught:
        open_bus(path, plugins=[Plugin()], environ=environ)
    assert [fault.rpartition(" @ ")[2] for fault in caught.value.faults] == [
        "$.bus.redis-options",
        "$.database.redis.addr",
        "$.database.redis.databases.bus",
    ]
    assert check_config(path, plugins=[Plugin()], environ=environ) == list(caught.value.faults)
    assert SECRET not in str(caught.value) + str(describe_config(load_config(path, environ=environ)))
