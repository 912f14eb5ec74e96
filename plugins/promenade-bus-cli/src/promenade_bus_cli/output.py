"""Printing: tables for people, JSON for programs. Progress and remarks go to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO

import click

from bus_core.runtime import counted

__all__ = [
    "clean",
    "counted",
    "diverted",
    "finite",
    "json_line",
    "print_json",
    "print_json_line",
    "print_table",
    "remark",
]


_outside: ContextVar[TextIO | None] = ContextVar("promenade_bus_cli_stdout", default=None)


@contextmanager
def diverted() -> Iterator[None]:
    """Reserves stdout for ``print_json`` inside the block: everything else that is printed goes to stderr."""
    token = _outside.set(_outside.get() or sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _outside.reset(token)


def print_json(value: Any) -> None:
    """Prints one JSON document on stdout, in ASCII for any terminal and locale.

    Numbers that JSON lacks, such as infinity, become strings.
    """
    click.echo(json.dumps(finite(value), indent=2, default=str, allow_nan=False), file=_outside.get())


def print_json_line(value: Any) -> None:
    """Prints one of several JSON documents on stdout, in a line of its own, like ``print_json``."""
    click.echo(json.dumps(finite(value), default=str, allow_nan=False), file=_outside.get())


def json_line(value: Any) -> str:
    """A value as JSON in one line, for people."""
    return json.dumps(finite(value), ensure_ascii=False, default=str)


def finite(value: Any) -> Any:
    """Copies plain data, with strings instead of the numbers that JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: drawn on a terminal, aligned text elsewhere, one row per line."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, cells)
        return
    widths = [max(len(line[index]) for line in [list(columns), *cells]) for index in range(len(columns))]
    for line in [[column.upper() for column in columns], *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)  # names stay in one piece for copying
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def remark(text: str) -> None:
    """Prints a remark for people to stderr; it is not part of the result."""
    click.echo(text, err=True)


def clean(text: str) -> str:
    """Returns the text on one line, with terminal control characters replaced."""
    return "".join(
        character
        if character.isprintable()
        else (" " if character in "\n\t" else "\N{REPLACEMENT CHARACTER}")
        for character in text
    )
