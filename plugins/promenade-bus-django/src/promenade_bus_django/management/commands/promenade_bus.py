"""``manage.py promenade_bus``: the command line of the bus, with the bus and the handlers of the project."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from promenade_bus_cli.main import cli, main
from promenade_bus_cli.options import APP_VARIABLE, CONFIG_VARIABLE
from promenade_bus_django import conf

__all__ = ["Command"]

APPLICATION: Final = "promenade_bus_django.worker:application"
OUTBOX: Final = "promenade_bus_django.outbox.relay:application"


class Command(BaseCommand):
    """Hands all arguments to ``promenade-bus``; its commands take the project where none is given."""

    help = "Runs a command of Promenade Bus: 'run' is the worker; '--help' lists all."
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Runs the command of the command line, and ends the process."""
        with _project_as_default():
            main(_completed(argv[2:]), f"{os.path.basename(argv[0])} {argv[1]}")

    def add_arguments(self, parser: CommandParser) -> None:
        """Takes all arguments as they are."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *_arguments: Any, **options: Any) -> None:
        """Runs the command for ``call_command``; raises ``CommandError`` for an exit status other than 0."""
        with _project_as_default():
            try:
                cli.main(_completed(options["arguments"]), prog_name="manage.py promenade_bus")
            except SystemExit as end:
                if end.code not in (None, 0):
                    status = end.code if isinstance(end.code, int) else 1
                    raise CommandError(f"exit status {status}", returncode=status) from None


def _completed(arguments: list[str]) -> list[str]:
    """Gives the commands of the outbox that of the project, if they are given none."""
    given = any(argument.partition("=")[0] in ("--outbox", "--database") for argument in arguments)
    if arguments[:1] == ["outbox"] and arguments[1:2] in (["relay"], ["status"]) and not given:
        return [*arguments, "--outbox", OUTBOX]
    return arguments


@contextmanager
def _project_as_default() -> Iterator[None]:
    """Makes the project the default of ``--app`` and ``--config``, by the variables that they read."""
    with _config_file() as path:
        defaults = {APP_VARIABLE: APPLICATION, CONFIG_VARIABLE: path}
        added = {name: value for name, value in defaults.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)


@contextmanager
def _config_file() -> Iterator[str]:
    """The path of the configuration; a mapping is written to a file that only this user may read."""
    source = conf.source()
    if not isinstance(source, Mapping):
        yield os.fspath(source)
        return
    with tempfile.TemporaryDirectory(prefix="promenade-bus-") as directory:
        path = Path(directory, "settings.yaml")
        path.write_text(json.dumps(source, default=str), encoding="utf-8")
        yield str(path)
