from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bus_core import (
    Envelope,
    Handler,
    HandlerTimeout,
    Postpone,
    PublishUncertain,
    RetryLater,
)
from bus_core.config.settings import read_settings
from promenade_bus_middleware import promenade_bus_middleware
from promenade_bus_testing import VirtualClock
from support.middleware import EVENT_ID, build, delivered, failing, faults_of, hang, published, succeed

# --- logging ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="promenade.bus.events")


def shown(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = caplog.records
    return f"{record.levelname} {record.getMessage()}"


async def test_log_of_a_handled_event(caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock) -> None:
    """A handled event is one record at level info, with ids, attempt and duration."""

    async def work(envelope: Envelope) -> None:
        virtual_clock.call_later(0.0125, lambda: None)
        await virtual_clock.advance(0.0125)

    await build("logging", virtual_clock)(work)(delivered(virtual_clock, attempt=2))
    assert shown(caplog) == (
        f"INFO handled identity.user.registered event_id={EVENT_ID} subscription=welcome-mail attempt=2 "
        "duration_ms=12.5"
    )


async def test_log_of_a_publish(caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock) -> None:
    """A published event is one record at level info, without a subscription."""
    await build("logging", virtual_clock)(succeed)(published())
    assert shown(caplog) == f"INFO published identity.user.registered event_id={EVENT_ID} duration_ms=0.0"


async def test_structured_fields(caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock) -> None:
    """Every value of a record is an attribute of its own, for formatters that write JSON."""
    with pytest.raises(ValueError, match="no"):
        await build("logging", virtual_clock)(failing(ValueError("no")))(delivered(virtual_clock))
    fields = vars(caplog.records[0])
    assert {name: fields[name] for name in ("direction", "outcome", "topic", "event_id", "error")} == {
        "direction": "consume",
        "outcome": "failed",
        "topic": "identity.user.registered",
        "event_id": str(EVENT_ID),
        "error": "ValueError",
    }
    assert (fields["subscription"], fields["attempt"], fields["duration_ms"]) == ("welcome-mail", 1, 0.0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("x"), "WARNING failed error=ValueError"),
        (RetryLater(after=5), "WARNING retry later"),
        (Postpone(after=5), "INFO postponed"),
        (asyncio.CancelledError(), "WARNING cancelled"),
        (SystemExit(1), "WARNING failed error=SystemExit"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_log_of_other_outcomes(
    caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock, error: BaseException, expected: str
) -> None:
    """Each way in which an attempt can end has its own outcome, and what was raised is passed on."""
    handler = build("logging", virtual_clock)(failing(error))
    with pytest.raises(type(error)) as caught:
        await handler(delivered(virtual_clock))
    assert caught.value is error
    level, outcome, *rest = expected.replace("retry later", "retry-later").split()
    assert shown(caplog).startswith(f"{level} {outcome.replace('-', ' ')} identity.user.registered ")
    assert [word for word in shown(caplog).split() if word.startswith("error=")] == rest


@pytest.mark.parametrize("handler", [succeed, failing(ValueError("ada@example.org called"))])
async def test_no_personal_data(
    caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock, handler: Handler
) -> None:
    """Neither fields of the event nor the text of an exception are in any part of a record."""
    for envelope in (published(), delivered(virtual_clock, contact="ada@example.org")):
        try:
            await build("logging", virtual_clock)(handler)(envelope)
        except ValueError:
            pass
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert "ada" not in repr(vars(record))
        assert record.exc_info is None


@pytest.mark.parametrize(
    ("hostile", "escaped"),
    [
        ("a\nINFO handled", "a\\nINFO handled"),
        ("a\r\x1b[2J", "a\\r\\x1b[2J"),
        ("a\u2028b\u202ec", "a\\u2028b\\u202ec"),
        ("a\ud800", "a\\ud800"),
        ("Zoë 東京", "Zoë 東京"),
        ("x" * 201, "x" * 200 + "..."),
    ],
)
async def test_no_forged_lines(
    caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock, hostile: str, escaped: str
) -> None:
    """A value from outside cannot begin a new line, steer a terminal, or flood the log."""
    middleware = build("logging", virtual_clock, headers=["origin"])
    await middleware(succeed)(delivered(virtual_clock, subscription=hostile, origin=hostile))
    await middleware(succeed)(published(hostile))
    for record in caplog.records:
        record.getMessage().encode()
        assert "".join(record.getMessage().splitlines()) == record.getMessage()
    fields = [vars(record) for record in caplog.records]
    assert fields[0]["subscription"] == escaped
    assert fields[0]["headers"] == {"origin": escaped}
    assert fields[1]["topic"] == escaped


async def test_chosen_headers(caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock) -> None:
    """Only the headers that the configuration names are logged, and only where there are any."""
    middleware = build("logging", virtual_clock, headers=["traceparent"])
    await middleware(succeed)(published(traceparent="00-ab-cd-01", cookie="secret"))
    assert shown(caplog).endswith(" headers={'traceparent': '00-ab-cd-01'}")
    caplog.clear()
    await middleware(succeed)(published(cookie="secret"))
    assert "headers" not in shown(caplog)


async def test_chosen_logger_and_levels(
    caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock
) -> None:
    """The configuration chooses the logger and both levels."""
    caplog.set_level(logging.DEBUG, logger="my.events")
    middleware = build("logging", virtual_clock, logger="my.events", level="debug", failure_level="error")
    await middleware(succeed)(published())
    with pytest.raises(ValueError, match="no"):
        await middleware(failing(ValueError("no")))(published())
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("my.events", "DEBUG"),
        ("my.events", "ERROR"),
    ]


async def test_switched_off(caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock) -> None:
    """When the logger's level is too high nothing is written, and an error passes as it is."""
    caplog.set_level(logging.ERROR, logger="promenade.bus.events")
    middleware = build("logging", virtual_clock)
    await middleware(succeed)(published())
    with pytest.raises(ValueError, match="no"):
        await middleware(failing(ValueError("no")))(published())
    assert caplog.records == []


async def test_only_failures(caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock) -> None:
    """With the logger at level warning only what failed is logged."""
    caplog.set_level(logging.WARNING, logger="promenade.bus.events")
    middleware = build("logging", virtual_clock)
    await middleware(succeed)(published())
    with pytest.raises(ValueError, match="no"):
        await middleware(failing(ValueError("no")))(published())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_log_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], virtual_clock: VirtualClock
) -> None:
    """An error in the logging set-up is shown on stderr and does not make an event fail."""

    def broken(record: logging.LogRecord) -> bool:
        raise OSError("no space left")

    logger = logging.getLogger("promenade.bus.events")
    monkeypatch.setattr(logger, "filters", [broken])
    await build("logging", virtual_clock)(succeed)(published())
    assert "no space left" in capsys.readouterr().err
    monkeypatch.setattr(logging, "raiseExceptions", False)
    await build("logging", virtual_clock)(succeed)(published())
    assert capsys.readouterr().err == ""


UNCONFIGURED = """
import asyncio, logging, sys
from uuid import uuid4
from bus_core import BaseEvent, open_bus

async def main():
    bus = open_bus({"bus": {"adapter": "memory", "strict_topics": False, "middleware": ["logging"]}})
    async with bus:
        @bus.subscribe("sales.#", name="mail")
        async def mail(event): ...
        await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))
        await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))
        await bus.drain()
        logging.basicConfig(level=sys.argv[1], format="%(name)s: %(message)s")
        await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4()))
        await bus.drain()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("level", "more"), [("INFO", ["promenade.bus.events: handled sales.order.placed"]), ("WARNING", [])]
)
def test_a_program_without_logging(level: str, more: list[str]) -> None:
    """Without any logging, records go to stderr after a line that says so; a set-up then decides."""
    done = subprocess.run(
        [sys.executable, "-c", UNCONFIGURED, level], capture_output=True, text=True, check=True
    )
    first, *lines = done.stderr.splitlines()
    assert first.startswith("no logging is configured, so the middleware 'logging' writes to stderr; call ")
    assert [line.partition(" event_id=")[0] for line in lines] == ["handled sales.order.placed"] * 2 + more
    assert done.stdout == ""


@pytest.mark.parametrize("configured", ["handler", "level", "root", "disable", "lastResort"])
async def test_any_logging_that_is_configured_decides(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    virtual_clock: VirtualClock,
    configured: str,
) -> None:
    """A handler or a level anywhere above the logger, or logging that is off, keeps stderr empty."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("promenade.bus.events"), "level", logging.NOTSET)
    middleware = build("logging", virtual_clock, logger="shop.unconfigured")
    await middleware(succeed)(published())
    assert capsys.readouterr().err.count("published identity.user.registered") == 1
    if configured == "handler":
        monkeypatch.setattr(logging.root, "handlers", [logging.NullHandler()])
    elif configured == "level":
        monkeypatch.setattr(logging.getLogger("shop.unconfigured"), "level", logging.WARNING)
    elif configured == "root":
        monkeypatch.setattr(logging.root, "level", logging.ERROR)
    elif configured == "disable":
        monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    else:
        monkeypatch.setattr(logging, "lastResort", None)
    logging.getLogger("shop.unconfigured").manager._clear_cache()  # type: ignore[attr-defined]
    await middleware(succeed)(published())
    await build("logging", virtual_clock, logger="shop.unconfigured")(succeed)(published())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"level": "loud"}, "'loud'"),
        ({"logger": ""}, "logger"),
        ({"lvl": "info"}, "unknown key 'lvl'"),
        ({"headers": "traceparent"}, "a list"),
    ],
)
def test_faulty_options_of_logging(options: dict[str, Any], fault: str) -> None:
    """Options that make no sense are faults with their path."""
    (found,) = faults_of("logging", **options)
    assert fault in found
    assert "@ $.logging" in found


# --- timeout ----------------------------------------------------------------------------------------------


def test_seconds_are_a_duration(virtual_clock: VirtualClock) -> None:
    """The limit can be written as a number of seconds or with a unit."""
    for given in (0.5, "500ms", "0.5s"):
        faults: list[str] = []
        options = read_settings(
            promenade_bus_middleware()["timeout"].options, {"seconds": given}, "$", faults
        )
        assert options is not None, faults
        assert options.seconds == 0.5


@pytest.mark.parametrize(
    "options", [{}, {"seconds": 0}, {"seconds": -1}, {"seconds": "soon"}, {"seconds": None}]
)
def test_faulty_options_of_timeout(options: dict[str, Any]) -> None:
    """A limit that is missing, not positive, or no duration is a fault with its path."""
    (found,) = faults_of("timeout", **options)
    assert "seconds" in found
    assert "@ $.timeout" in found


async def outcome_after(
    clock: VirtualClock, seconds: float, call: Callable[[], Awaitable[None]]
) -> BaseException | None:
    async def run() -> None:
        await call()

    task = asyncio.create_task(run())
    await clock.advance(seconds)
    assert task.done()
    return task.exception()


async def test_an_attempt_in_time(virtual_clock: VirtualClock) -> None:
    """An attempt that ends in time passes, and leaves no timer."""
    await build("timeout", virtual_clock, seconds=30)(succeed)(delivered(virtual_clock))
    assert virtual_clock.timers == []


async def test_an_attempt_that_takes_too_long(virtual_clock: VirtualClock) -> None:
    """An attempt that takes longer than the limit is cancelled and fails with HandlerTimeout."""
    handler = build("timeout", virtual_clock, seconds=30)(hang)
    error = await outcome_after(virtual_clock, 30, lambda: handler(delivered(virtual_clock)))
    assert isinstance(error, HandlerTimeout)
    assert str(error) == "the handler of 'welcome-mail' ran longer than its timeout of 30 s"


async def test_a_publish_that_takes_too_long(virtual_clock: VirtualClock) -> None:
    """A publish that takes longer than the limit raises PublishUncertain, because the event may be stored."""
    handler = build("timeout", virtual_clock, seconds="2s")(hang)
    error = await outcome_after(virtual_clock, 2, lambda: handler(published()))
    assert isinstance(error, PublishUncertain)
    assert str(error).startswith("publishing to 'identity.user.registered' took longer than 2 s")


async def test_logging_around_timeout(caplog: pytest.LogCaptureFixture, virtual_clock: VirtualClock) -> None:
    """With [logging, timeout] an attempt that ran too long is logged with HandlerTimeout."""
    handler = build("logging", virtual_clock)(build("timeout", virtual_clock, seconds=30)(hang))
    await outcome_after(virtual_clock, 30, lambda: handler(delivered(virtual_clock)))
    assert shown(caplog).startswith("WARNING failed ")
    assert shown(caplog).endswith(" duration_ms=30000.0 error=HandlerTimeout")


# --- as a plugin ------------------------------------------------------------------------------------------


def test_the_plugin_is_light() -> None:
    """The offer of the plugin imports its options, and none of its middleware."""
    script = (
        "import sys, promenade_bus_middleware as plugin\n"
        "plugin.promenade_bus_middleware()\n"
        "print(sorted(name for name in sys.modules if name.startswith(plugin.__name__)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    package = "promenade_bus_middleware"
    assert done.stdout.strip() == str([package, f"{package}.config", f"{package}.offers"])
