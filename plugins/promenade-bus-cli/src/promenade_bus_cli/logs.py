"""The logging of ``promenade-bus run``: text for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

import click

from promenade_bus_cli.output import finite

__all__ = ["FORMATS", "LEVELS", "JsonLines", "LogFormat", "configure_logging", "line_of", "say"]

LogFormat = Literal["text", "json"]

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_OWN: Final = "promenade.bus.run"

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The attributes that every record has; all others come from ``extra=``."""

_NAMES: Final = frozenset({"time", "level", "logger", "message", "process", "exception", "stack"})


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object in one line.

    It has ``time`` (ISO 8601 in UTC), ``level``, ``logger``, ``message``, ``process``, the fields of
    ``extra=``, and the traceback as ``exception`` if there is one. An extra field with one of these names
    gets an underscore behind it. A value that JSON lacks becomes a string.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        for name, value in vars(record).items():
            if name not in _STANDARD:
                fields[f"{name}_" if name in _NAMES else name] = value
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        try:
            return json.dumps(finite(fields), default=str, allow_nan=False)
        except (TypeError, ValueError, RecursionError):  # keys that are no text, or a circle
            return json.dumps(
                {name: value if name in _NAMES else repr(value) for name, value in fields.items()}
            )


def configure_logging(level: str | None, format: LogFormat | None) -> None:
    """Sends the log to stderr. Does nothing without a level and a format: the application may do it."""
    if level is None and format is None:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else logging.Formatter(_TEXT))
    root = logging.getLogger()
    for before in [*root.handlers]:
        root.removeHandler(before)
    root.addHandler(handler)
    root.setLevel((level or "info").upper())


def say(format: LogFormat | None) -> Callable[[str], None]:
    """Returns the function that prints a line of the command: on stdout, or with JSON in the log."""
    return logging.getLogger(_OWN).info if format == "json" else _echo


def line_of(format: LogFormat | None) -> Callable[[str], str]:
    """Returns the function that formats a line which a signal handler writes, where no log can be used."""
    return _json_line if format == "json" else str


def _json_line(text: str) -> str:
    record = logging.LogRecord(_OWN, logging.INFO, __file__, 0, "%s", (text,), None)
    return JsonLines().format(record)


def _echo(text: str) -> None:
    """Prints a line. A closed stdout does not stop the worker."""
    try:
        click.echo(text)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
