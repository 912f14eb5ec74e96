"""The log of ``promenade-bus run``, as text and as JSON lines."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from promenade_bus_cli.logs import JsonLines, configure_logging, line_of


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which gets its handlers and its level back."""
    logger = logging.getLogger()
    handlers, level = [*logger.handlers], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def logged(monkeypatch: pytest.MonkeyPatch, level: str | None, format: Any) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(level, format)
    return stream


def test_json_has_one_object_a_line(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is one line with time, level, logger, message, process, and the fields of extra=."""
    stream = logged(monkeypatch, None, "json")
    logger = logging.getLogger("shop")
    logger.info(
        "two\nlines %s",
        "of it",
        extra={"event_id": "7", "attempt": 2, "ratio": float("inf"), "level": "mine", "raw": {1}},
    )
    logger.debug("too quiet")
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert isinstance(first.pop("process"), int)
    assert first == {
        "level": "INFO",
        "logger": "shop",
        "message": "two\nlines of it",
        "event_id": "7",
        "attempt": 2,
        "ratio": "inf",
        "level_": "mine",
        "raw": "{1}",
    }
    assert second["message"] == "failed"
    assert second["exception"].splitlines()[-1] == "ValueError: wrong"


def test_extra_fields_that_are_no_json_spoil_nothing() -> None:
    """A value that refers to itself is written as its repr."""
    circle: dict[str, Any] = {}
    circle["self"] = circle
    record = logging.makeLogRecord({"msg": "round", "circle": circle})
    assert json.loads(JsonLines().format(record))["circle"] == repr(circle)


def test_text_is_one_line_with_level_and_logger(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text has the time, the level, the logger and the message; the level is a threshold."""
    stream = logged(monkeypatch, "WARNING", None)
    logging.getLogger("shop").warning("low on %s", "chairs")
    logging.getLogger("shop").info("too quiet")
    [line] = stream.getvalue().splitlines()
    assert line.endswith(" WARNING shop: low on chairs")


def test_without_options_the_application_configures_it(root: logging.Logger) -> None:
    """Without a level and a format the logging of the application stays as it is."""
    before = [*root.handlers], root.level
    configure_logging(None, None)
    assert ([*root.handlers], root.level) == before


def test_lines_of_signal_handlers_are_json_as_well() -> None:
    """A line about a signal has the form of the log."""
    assert json.loads(line_of("json")("SIGTERM: draining"))["message"] == "SIGTERM: draining"
    assert line_of(None)("SIGTERM: draining") == "SIGTERM: draining"
