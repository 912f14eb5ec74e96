"""Log lines on which whoever reads them can rely."""

from __future__ import annotations

import logging

import pytest

from bus_core.runtime import plain_logger, printable
from bus_core.runtime.logs import counted

FORGED = "1\n2026-01-01 CRITICAL auth root logged in\x1b[2J\r\x00\u2028\u202e\ud800"


class Odd(Exception):
    def __repr__(self) -> str:
        return f"Odd({self.args[0]})"


def test_odd_characters_are_written_out() -> None:
    """Line breaks, escape sequences, and what changes the direction of writing, are shown, not sent."""
    assert printable("plain ünï \N{SNOWMAN}") == "plain ünï \N{SNOWMAN}"
    assert printable(FORGED).isprintable()
    assert printable("a\nb\x1b[2J") == "a\\nb\\x1b[2J"
    assert printable("abcdefgh", 6) == "abc..."
    assert printable(FORGED).encode()


def test_a_line_cannot_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    """Arguments of every kind stay on the line, and the line is told where it was written."""
    logger = plain_logger("promenade.test")
    with caplog.at_level(logging.DEBUG, "promenade.test"):
        logger.error("%s %r %s %r %d", FORGED, FORGED, Odd(FORGED), Odd(FORGED), 3)
        logger.debug("%s", None)
    assert [record.filename for record in caplog.records] == ["test_logs.py"] * 2
    assert {record.funcName for record in caplog.records} == {"test_a_line_cannot_be_forged"}
    for record in caplog.records:
        assert record.getMessage().isprintable()
    assert caplog.records[0].getMessage().endswith(" 3")
    assert caplog.records[1].getMessage() == "None"


def test_a_line_has_an_end(caplog: pytest.LogCaptureFixture) -> None:
    """An id as long as somebody likes is cut off."""
    plain_logger("promenade.test").error("%s", "x" * 100_000)
    assert len(caplog.records[0].getMessage()) < 2_000


def test_the_traceback_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """The cause in an error log is not changed."""
    with caplog.at_level(logging.ERROR, "promenade.test"):
        try:
            raise KeyError("x")
        except KeyError:
            plain_logger("promenade.test").exception("it failed: %s", "a\nb")
    assert caplog.records[0].getMessage() == "it failed: a\\nb"
    assert "KeyError: 'x'" in caplog.text


def test_numbers_take_the_right_plural() -> None:
    """One is followed by the singular, and every other number by the plural."""
    assert [counted(number, "event is", "events are") for number in (0, 1, 2)] == [
        "0 events are",
        "1 event is",
        "2 events are",
    ]
