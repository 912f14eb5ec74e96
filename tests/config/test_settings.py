"""Typed settings: strict types, all faults with their paths, no secrets in anything that people read."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from datetime import date, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus_core.config.durations import LONGEST, format_duration, parse_duration
from bus_core.config.faults import Fault, join_path
from bus_core.config.secrets import Secret, is_secret_name, mask_text, mask_tree
from bus_core.config.settings import read_fields, read_settings, render_settings
from bus_core.config.values import DURATION, SECRET, Reader
from bus_core.config.variables import ExpandedMapping, expand
from bus_core.config.yaml_file import read_scalar


class Mode(StrEnum):
    STREAMS = "streams"
    PUBSUB = "pubsub"


@attrs.frozen(kw_only=True)
class Pool:
    size: int = attrs.field(default=10, validator=attrs.validators.ge(1))
    idle: Annotated[float, DURATION] = 60.0


def _read_bytes(value: Any, path: str, faults: list[str]) -> int:
    if isinstance(value, str) and value.endswith("k"):
        return int(value[:-1]) * 1024
    faults.append(f"expected a size such as 64k @ {path}")
    return 0


@attrs.frozen(kw_only=True)
class Options:
    text: str = "x"
    count: int = 1
    ratio: float = 1.0
    flag: bool = False
    mode: Mode = Mode.STREAMS
    level: Literal["low", "high", 3] = "low"
    maybe: int | None = None
    either: int | str = 0
    number: float | int = 0
    names: tuple[str, ...] = ()
    limits: Mapping[str, int] = attrs.field(factory=dict)
    anything: Any = None
    pool: Pool = Pool()
    pools: tuple[Pool, ...] = ()
    maybe_pool: Pool | bool = False
    delay: Annotated[float, DURATION] = 1.0
    lease: Annotated[float, DURATION] | None = None
    password: Annotated[str, SECRET] | None = None
    tokens: Annotated[tuple[str, ...], SECRET] = ()
    size: Annotated[int, Reader(_read_bytes)] = 0


def read(raw: object, cls: type[Any] = Options) -> tuple[Any, list[str]]:
    faults: list[str] = []
    return read_settings(cls, raw, "$.bus", faults), faults


def expanded(raw: Mapping[str, Any], **environ: str) -> Any:
    faults: list[str] = []
    result = expand(raw, "$.bus", faults, environ=environ, read_scalar=read_scalar)
    assert faults == []
    return result


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("text", "hello", "hello"),
        ("count", 3, 3),
        ("ratio", 1, 1.0),
        ("ratio", 2.5, 2.5),
        ("flag", True, True),
        ("mode", "pubsub", Mode.PUBSUB),
        ("mode", Mode.PUBSUB, Mode.PUBSUB),
        ("level", "high", "high"),
        ("level", 3, 3),
        ("maybe", None, None),
        ("maybe", 3, 3),
        ("either", "a", "a"),
        ("either", 5, 5),
        ("number", 5, 5),
        ("names", ["a", "b"], ("a", "b")),
        ("limits", {"a": 1}, {"a": 1}),
        ("anything", {"a": [1, {}]}, {"a": [1, {}]}),
        ("pool", {"size": 2}, Pool(size=2)),
        ("pool", None, Pool()),
        ("pool", Pool(size=3), Pool(size=3)),
        ("pools", [{"size": 2}, {}], (Pool(size=2), Pool())),
        ("maybe_pool", True, True),
        ("maybe_pool", {"size": 4}, Pool(size=4)),
        ("delay", "1h30m", 5400.0),
        ("delay", 2, 2.0),
        ("delay", timedelta(milliseconds=1500), 1.5),
        ("lease", None, None),
        ("lease", "30s", 30.0),
        ("password", "hunter2", "hunter2"),
        ("size", "64k", 65536),
    ],
)
def test_a_value_of_the_right_type_is_taken(key: str, raw: object, value: object) -> None:
    """A value that fits the annotation of its field is stored as that type."""
    options, faults = read({key: raw})
    assert faults == []
    assert getattr(options, key) == value
    assert type(getattr(options, key)) in (type(value), Secret)


@pytest.mark.parametrize(
    ("key", "raw", "fault"),
    [
        ("text", 5, "expected a text in quotes, got 5 @ $.bus.text"),
        ("text", False, "expected a text in quotes, got false @ $.bus.text"),
        ("text", None, "expected a text, got nothing @ $.bus.text"),
        ("text", date(2024, 1, 2), "expected a text in quotes, got a date (put it in quotes) @ $.bus.text"),
        ("count", "5", "expected a whole number, got '5' @ $.bus.count"),
        ("count", 1.9, "expected a whole number, got 1.9 @ $.bus.count"),
        ("count", True, "expected a whole number, got true @ $.bus.count"),
        ("count", [1], "expected a whole number, got a list @ $.bus.count"),
        ("ratio", "1", "expected a number, got '1' @ $.bus.ratio"),
        ("ratio", True, "expected a number, got true @ $.bus.ratio"),
        ("ratio", float("nan"), "expected a finite number, got a number @ $.bus.ratio"),
        ("ratio", float("inf"), "expected a finite number, got a number @ $.bus.ratio"),
        ("ratio", 10**400, "expected a number that fits a float, got a number @ $.bus.ratio"),
        ("flag", "false", "expected true or false, got 'false' @ $.bus.flag"),
        ("flag", 1, "expected true or false, got 1 @ $.bus.flag"),
        (
            "mode",
            "stream",
            "expected one of 'streams', 'pubsub', got 'stream'; did you mean 'streams'? @ $.bus.mode",
        ),
        ("level", True, "expected one of 'low', 'high', 3, got true @ $.bus.level"),
        ("maybe", "x", "expected a whole number, got 'x' @ $.bus.maybe"),
        ("either", [], "expected a whole number or a text, got a list @ $.bus.either"),
        ("names", "a", "expected a list, got 'a' @ $.bus.names"),
        ("names", ["a", 2], "expected a text in quotes, got 2 @ $.bus.names[1]"),
        ("limits", [], "expected a mapping, got a list @ $.bus.limits"),
        ("limits", {"a.b": "x"}, "expected a whole number, got 'x' @ $.bus.limits['a.b']"),
        ("limits", {1: 1}, "the key 1 is not a text; put it in quotes @ $.bus.limits"),
        ("pool", "big", "expected a mapping, got a text @ $.bus.pool"),
        ("pool", {"size": 0}, "'size' must be >= 1: 0 @ $.bus.pool.size"),
        ("pools", [{}, {"siz": 1}], "unknown key 'siz', did you mean 'size'? @ $.bus.pools[1]"),
        ("maybe_pool", {"size": "x"}, "expected a whole number, got 'x' @ $.bus.maybe_pool.size"),
        ("maybe_pool", "x", "expected a mapping or true or false, got 'x' @ $.bus.maybe_pool"),
        ("delay", "5", "'5' is not a duration; give it a unit @ $.bus.delay"),
        ("delay", "soon", "'soon' is not a duration; write it as 100ms, 5s, 1h30m or 7d @ $.bus.delay"),
        ("delay", -1, "expected a duration of 0 to 36500 days in seconds, got -1 @ $.bus.delay"),
        (
            "delay",
            float("nan"),
            "expected a duration of 0 to 36500 days in seconds, got a number @ $.bus.delay",
        ),
        ("delay", True, "expected a duration such as 100ms, 5s or 1h30m, got true @ $.bus.delay"),
        ("lease", "x", "'x' is not a duration; write it as 100ms, 5s, 1h30m or 7d @ $.bus.lease"),
        ("size", "64", "expected a size such as 64k @ $.bus.size"),
        ("text", {"a": "x" * 100}, "expected a text in quotes, got a mapping @ $.bus.text"),
        ("count", "x" * 100, "expected a whole number, got a text @ $.bus.count"),
    ],
)
def test_a_value_of_the_wrong_type_is_a_fault(key: str, raw: object, fault: str) -> None:
    """A value that does not fit is refused with what was expected, what was given, and its path."""
    assert read({key: raw}) == (None, [fault])


def test_none_stands_for_an_empty_section() -> None:
    """A section without a value has all defaults."""
    assert read(None) == (Options(), [])


def test_an_unknown_key_is_a_fault_with_the_nearest_known_one() -> None:
    """A misspelt key is answered with the key that was probably meant."""
    assert read({"pasword": "hunter2"}) == (
        None,
        ["unknown key 'pasword', did you mean 'password'? @ $.bus"],
    )


def test_an_unlike_key_is_a_fault_that_lists_the_known_ones() -> None:
    """A key that resembles nothing is answered with all known keys."""
    assert read({"colour": 1}, Pool) == (None, ["unknown key 'colour'; known: size, idle @ $.bus"])


def test_unknown_keys_of_a_shared_section_can_be_ignored() -> None:
    """A section that others read as well may hold keys of theirs."""
    faults: list[str] = []
    pool = read_settings(Pool, {"size": 2, "colour": 1, 5: 6}, "$", faults, ignore_unknown=True)
    assert (pool, faults) == (Pool(size=2), [])


@attrs.frozen
class Strict:
    name: str
    low: int = attrs.field(default=1, validator=attrs.validators.ge(0))
    high: int = 2

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")


def test_all_faults_are_collected() -> None:
    """One reading reports wrong types, broken rules, unknown keys and missing keys together."""
    assert read({"low": -1, "high": "x", "hgh": 1}, Strict)[1] == [
        "expected a whole number, got 'x' @ $.bus.high",
        "unknown key 'hgh', did you mean 'high'? @ $.bus",
        "the key 'name' is required @ $.bus",
        "'low' must be >= 0: -1 @ $.bus.low",
    ]


def test_a_rule_over_several_fields_is_a_fault_of_the_section() -> None:
    """Values that the class itself refuses are reported with the path of the section."""
    assert read({"name": "a", "low": 5}, Strict) == (None, ["low 5 is above high 2 @ $.bus"])


def test_sound_values_are_given_beside_the_faults() -> None:
    """The fields that are sound can be used while the faults of the others are reported."""
    faults: list[str] = []
    assert read_fields(Strict, {"name": "a", "low": "x", "high": 7}, "$", faults) == {"name": "a", "high": 7}
    assert len(faults) == 1


@attrs.frozen
class Unreadable:
    things: set[int] = attrs.field(factory=set)


def test_an_annotation_that_cannot_be_read_is_a_mistake_of_the_author() -> None:
    """A settings class with an annotation without a reader raises TypeError: no fault of the user."""
    with pytest.raises(TypeError, match=r"set\[int\].*\$\.bus\.things"):
        read({"things": [1]}, Unreadable)


# --- secrets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [{"password": 4711}, {"tokens": [4711]}, {"tokens": "4711"}])
def test_a_secret_of_the_wrong_type_stays_secret(raw: dict[str, Any]) -> None:
    """A fault of a secret field tells the kind of the value and not the value."""
    _, faults = read(raw)
    assert len(faults) == 1
    assert "4711" not in faults[0]


def test_a_secret_does_not_show_in_a_repr() -> None:
    """The repr of settings read from a configuration masks their secrets."""
    options, _ = read({"password": "hunter2", "tokens": ["t0ken"]})
    assert options.password == "hunter2"
    assert "hunter2" not in repr(options)
    assert "t0ken" not in repr(options)


def _refuse(_instance: object, _attribute: object, value: str) -> None:
    raise ValueError(f"{value} is not good")


@attrs.frozen
class Guarded:
    secret: Annotated[str, SECRET] = attrs.field(default="", validator=_refuse)
    api_token: str = attrs.field(default="", validator=_refuse)


@attrs.frozen
class Pin:
    pin: Annotated[int, SECRET] = 0


@attrs.frozen
class Careless:
    secret: Annotated[str, SECRET] = ""
    api_token: str = ""

    def __attrs_post_init__(self) -> None:
        raise ValueError(f"cannot use {self.secret}{self.api_token}")


def test_a_validator_cannot_tell_a_secret() -> None:
    """The message of a validator of a secret field, or of one named like a secret, is not repeated."""
    assert read({"secret": "hunter2", "api_token": "t0ken"}, Guarded)[1] == [
        "the value is not accepted @ $.bus.secret",
        "the value is not accepted @ $.bus.api_token",
    ]


@pytest.mark.parametrize("key", ["secret", "api_token"])
def test_a_class_cannot_tell_a_secret(key: str) -> None:
    """A message that holds the value of a secret field is replaced."""
    assert read({key: "hunter2"}, Careless)[1] == [
        "the values are not accepted (the reason holds a secret) @ $.bus"
    ]


def test_user_information_of_a_url_does_not_show() -> None:
    """A URL of the wrong type is shown without its user and password."""
    assert read({"count": "redis://me:hunter2@host/1"})[1] == [
        "expected a whole number, got 'redis://***@host/1' @ $.bus.count"
    ]


def test_settings_render_for_people() -> None:
    """Rendered settings have durations as text, plain values, and masked secrets."""
    options, _ = read(
        {
            "password": "hunter2",
            "tokens": ["t0ken"],
            "delay": 90,
            "lease": "1h",
            "pools": [{"idle": "100ms"}],
            "text": "redis://me:hunter2@host",
            "anything": {"token": "t0ken", "n": 1},
        }
    )
    assert render_settings(options) == {
        **render_settings(Options()),
        "password": "***",
        "tokens": ["***"],
        "delay": "1m30s",
        "lease": "1h",
        "pools": [{"size": 10, "idle": "100ms"}],
        "text": "redis://***@host",
        "anything": {"token": "***", "n": 1},
    }


def test_unset_secrets_are_shown_as_unset() -> None:
    """That there is no password is visible."""
    assert render_settings(Options())["password"] is None


@pytest.mark.parametrize(
    "name",
    ["password", "REDIS_PASSWORD", "passwd", "apiKey", "api-key", "auth", "access_token", "clientSecret"],
)
def test_names_of_secrets_are_recognized(name: str) -> None:
    """Keys that usually hold credentials are known by their name."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["author", "key", "monkey", "tokenizer", "compass", 5, None])
def test_other_names_are_not_secrets(name: object) -> None:
    """Keys that merely look alike are not masked."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://:p@ss/w@host:1/0", "redis://***@host:1/0"),
        ("postgres://u:p@h/db?sslmode=require", "postgres://***@h/db?sslmode=require"),
        ("host=h password=hunter2 dbname=d", "host=h password=*** dbname=d"),
        ("https://h/?access_token=abc&x=1", "https://h/?access_token=***&x=1"),
        ("plain text", "plain text"),
        ("redis://u:" + "x" * 2000 + "@h", "***"),
    ],
)
def test_secrets_in_texts_are_masked(text: str, masked: str) -> None:
    """Credentials in URLs and in key=value texts are replaced."""
    assert mask_text(text) == masked


def test_everything_below_a_secret_key_is_masked() -> None:
    """A section named like a secret hides every value in it."""
    raw = {"credentials": {"a": ["x", 5], "b": "", "c": None, "d": True}, "port": 1}
    assert mask_tree(raw) == {"credentials": {"a": ["***", "***"], "b": "", "c": None, "d": True}, "port": 1}


# --- values from variables --------------------------------------------------------------------------------


def test_a_value_from_a_variable_takes_the_type_of_its_field() -> None:
    """A variable is read as the field wants it: digits are a number or a text."""
    raw = expanded(
        dict.fromkeys(("text", "count", "ratio", "either", "level", "password", "delay"), "${V}"), V="3"
    )
    options, faults = read(raw)
    assert faults == []
    assert (options.text, options.count, options.ratio, options.either) == ("3", 3, 3.0, 3)
    assert (options.level, options.password, options.delay) == (3, "3", 3.0)


@pytest.mark.parametrize(
    "text",
    ["007", "1e5", "true", "no", "1_000", "2024-01-02", "0x1F", "1:30", "[a]", "~x", "null", "NULL", "~"],
)
def test_a_text_from_a_variable_is_kept_as_it_is(text: str) -> None:
    """A password that looks like a number, a bool, a date or nothing at all to YAML arrives unchanged."""
    options, faults = read(expanded({"password": "${V}", "names": ["${V}"], "text": "${V:-x}"}, V=text))
    assert faults == []
    assert (options.password, options.names, options.text) == (text, (text,), text)


def test_an_empty_variable_is_nothing_or_an_empty_text() -> None:
    """An empty value is None where that is allowed, and an empty text where only texts are."""
    options, _ = read(expanded({"password": "${V:-}", "text": "${V:-}"}))
    assert (options.password, options.text) == (None, "")


def test_the_value_of_a_variable_for_a_secret_does_not_show() -> None:
    """A secret that comes from a variable, and does not fit, is not in the fault."""
    _, faults = read(expanded({"pin": "${V}"}, V="hunter2"), Pin)
    assert faults == ["expected a whole number, got a text @ $.bus.pin"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${N:-5}", 5),
        ("${N:-1.5}", 1.5),
        ("${N:-true}", True),
        ("${N:-}", None),
        ("${N:-text}", "text"),
        ("${HOST}", "h"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", None),
        ("${HOST}:${N:-5}", "h:5"),
        ("a $${HOST} b", "a ${HOST} b"),
        ("$${HOST}", "${HOST}"),
        ("$HOST", "$HOST"),
        ("${N:-{a}", "{a"),
    ],
)
def test_expansion(text: str, value: object) -> None:
    """Variables expand with their defaults; a text that is wholly one expansion is read as a scalar."""
    result = expanded({"a": text, "b": [text]}, HOST="h", EMPTY="")
    assert result == {"a": value, "b": [value]}
    assert type(result["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("${NOPE}", "the variable NOPE is not set; set it, or write ${NOPE:-default} @ $.a"),
        ("x${NOPE}y", "the variable NOPE is not set; set it, or write ${NOPE:-default} @ $.a"),
        ("${NOPE", "malformed '${': write ${NAME} or ${NAME:-default}, or $${ for a plain '${' @ $.a"),
        ("${a b}", "malformed '${': write ${NAME} or ${NAME:-default}, or $${ for a plain '${' @ $.a"),
        ("${A:?no}", "malformed '${': write ${NAME} or ${NAME:-default}, or $${ for a plain '${' @ $.a"),
    ],
)
def test_faulty_expansion(text: str, fault: str) -> None:
    """An unset variable and a malformed expansion are faults that tell what to write."""
    faults: list[str] = []
    expand({"a": text}, "$", faults, environ={}, read_scalar=read_scalar)
    assert faults == [fault]


def test_a_faulty_expansion_is_reported_once() -> None:
    """A value that could not be expanded is not reported again for its type."""
    faults: list[str] = []
    raw = expand({"count": "${NOPE}"}, "$.bus", faults, environ={}, read_scalar=read_scalar)
    assert read_settings(Options, raw, "$.bus", faults) is None
    assert len(faults) == 1


def test_data_that_contains_itself_is_a_fault() -> None:
    """A mapping given in Python that contains itself is refused at a bounded depth."""
    loop: dict[str, Any] = {}
    loop["again"] = loop
    faults: list[str] = []
    expand(loop, "$", faults, environ={}, read_scalar=read_scalar)
    assert len(faults) == 1
    assert faults[0].startswith("nested deeper than 64 levels @ $.again.again")


def test_an_expanded_mapping_equals_a_plain_one() -> None:
    """A caller that ignores the origin of values sees plain data."""
    assert expanded({"a": {"b": ["${V:-1}"]}}) == {"a": {"b": [1]}}
    assert isinstance(expanded({}), ExpandedMapping)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("adapter", "$.adapter"),
        ("event-loop", "$.event-loop"),
        ("a.*", "$['a.*']"),
        (5, "$[5]"),
        ("x y", "$['x y']"),
    ],
)
def test_paths(key: object, path: str) -> None:
    """A path shows plain keys with dots, and others in brackets."""
    assert join_path("$", key) == path


# --- durations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("100ms", 0.1),
        ("700ms", 0.7),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("2d", 172_800.0),
        ("7d", 604_800.0),
        ("1d2h3m4s5ms", 93_784.005),
        (" 10s ", 10.0),
        ("0s", 0.0),
        ("36500d", LONGEST),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration reads as seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "5", "s", "-1s", "+1s", "1 s", "1s1h", "1m1m", "1e3s", "1_0s", "1S", "\u0661s", "1,5s", ".5s",
     "5.s", "nan", "inf", "36501d", "9" * 21 + "s", "1w", "1us", "1s\n2s"],
)  # fmt: skip
def test_what_is_not_a_duration(text: str) -> None:
    """Anything but numbers with units from large to small is refused, as is more than 36500 days."""
    with pytest.raises(ValueError, match=r"duration|longer than 36500d"):
        parse_duration(text)


@given(st.floats(min_value=1e-9, max_value=LONGEST) | st.just(0.0))
def test_durations_round_trip(seconds: float) -> None:
    """A formatted duration reads back as the same number of seconds."""
    assert parse_duration(format_duration(seconds)) == seconds


@given(
    st.integers(0, 36_000), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999)
)
def test_durations_are_read_exactly(
    days: int, hours: int, minutes: int, seconds: int, milliseconds: int
) -> None:
    """Each unit counts as what it is."""
    text = f"{days}d{hours}h{minutes}m{seconds}s{milliseconds}ms"
    expected = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
    assert parse_duration(text) == expected.total_seconds()


@given(st.text(max_size=30))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """No text makes the parser fail in another way."""
    try:
        assert 0 <= parse_duration(text) <= LONGEST
    except ValueError:
        pass


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), LONGEST * 2])
def test_what_cannot_be_formatted(seconds: float) -> None:
    """A number that is no duration is refused."""
    with pytest.raises(ValueError, match="a duration has 0 to"):
        format_duration(seconds)


def test_a_fault_knows_its_path() -> None:
    """A fault is its text, and keeps what is wrong apart from the path, also when it is pickled or copied."""
    fault = Fault("expected a mapping", "$.bus.redis")
    for each in (fault, pickle.loads(pickle.dumps(fault)), copy.deepcopy(fault), Fault.of(str(fault))):
        assert (each, each.what, each.path) == (
            "expected a mapping @ $.bus.redis",
            "expected a mapping",
            "$.bus.redis",
        )
    assert Fault.of("a plugin says: a @ b @ $.bus.x").what == "a plugin says: a @ b"
    assert Fault.of("plain text") == "plain text @ $"
