"""The options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar, cast

import click

from bus_core.config import parse_duration
from promenade_bus_cli.output import diverted

__all__ = [
    "APP_VARIABLE",
    "CONFIG_VARIABLE",
    "DEBUG",
    "app_option",
    "config_option",
    "debug_option",
    "duration",
    "json_option",
    "required_config_option",
]

F = TypeVar("F", bound=Callable[..., Any])

APP_VARIABLE = "PROMENADE_BUS_APP"
CONFIG_VARIABLE = "PROMENADE_BUS_CONFIG"
DEBUG = "promenade_bus_cli.debug"
"""The key in ``Context.meta`` that is true when tracebacks are wanted."""


def duration(text: str) -> float:
    """Parses ``5s``, ``1m30s`` or a plain number into seconds; used as an option's type."""
    try:
        return parse_duration(f"{text}s" if text.replace(".", "", 1).isdecimal() else text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _remember_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True


def debug_option(command: F) -> F:
    """Adds ``--debug``, accepted before or after the name of the command."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )(command)


def config_option(command: F, *, required: bool = False) -> F:
    """Adds ``--config FILE``; the default is the file in the environment variable."""
    return click.option(
        "--config",
        "config",
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        show_envvar=True,
        required=required,
        help="The configuration file.",
    )(command)


def required_config_option(command: F) -> F:
    """Adds ``--config FILE`` to a command that has no other way to find its bus."""
    return config_option(command, required=True)


def _unless_configured(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Drops the application of the environment variable when --config is given."""
    given = click.core.ParameterSource.COMMANDLINE
    if ctx.get_parameter_source("app") is not given and ctx.get_parameter_source("config") is given:
        return None
    return value


def app_option(command: F) -> F:
    """Adds ``--app MODULE:ATTR``; the default is the application in the environment variable."""
    return click.option(
        "--app",
        "app",
        metavar="MODULE:ATTR",
        envvar=APP_VARIABLE,
        show_envvar=True,
        callback=_unless_configured,
        help="The application's bus: an unstarted Bus or SyncBus, or a function that returns one. "
        "Replaces --config.",
    )(command)


def json_option(command: F) -> F:
    """Adds ``--json``. With it, only the JSON document goes to stdout; other prints go to stderr."""

    @functools.wraps(command)
    def run(*arguments: Any, as_json: bool, **others: Any) -> Any:
        with diverted() if as_json else nullcontext():
            return command(*arguments, as_json=as_json, **others)

    option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    return cast(F, option(run))
