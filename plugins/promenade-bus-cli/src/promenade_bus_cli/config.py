"""``promenade-bus config``: checks a configuration file, and shows the effective configuration."""

from __future__ import annotations

from typing import Any

import click

from bus_core import ConfigError, check_config, load_config
from bus_core.plugins import chain_warnings, discover
from promenade_bus_cli.effective import effective_config
from promenade_bus_cli.failures import REFUSED, CommandFailed
from promenade_bus_cli.options import CONFIG_VARIABLE, debug_option, json_option
from promenade_bus_cli.output import counted, print_json

__all__ = ["config"]


@click.group()
def config() -> None:
    """Check a configuration file, or show the effective configuration."""


def _file_argument(command: Any) -> Any:
    return click.argument(
        "file", required=False, envvar=CONFIG_VARIABLE, type=click.Path(exists=True, dir_okay=False)
    )(command)


def _required(file: str | None) -> str:
    if file is None:
        raise CommandFailed(f"no file given: pass FILE, or set {CONFIG_VARIABLE}")
    return file


@config.command()
@_file_argument
@json_option
@debug_option
@click.pass_context
def check(ctx: click.Context, file: str | None, as_json: bool) -> None:
    """Report every fault of FILE at once, including faults in the options of plugins.

    Exit status 1 when there is a fault. A file without faults may have warnings: middleware that others in
    its chain defeat.
    """
    source = _required(file)
    warnings: list[str] = []
    try:
        faults = check_config(source)
        if not faults:
            warnings = _warnings_of(source)
    except ConfigError as error:
        faults = [*error.faults]
    if as_json:
        print_json({"source": source, "valid": not faults, "faults": faults, "warnings": warnings})
    else:
        found = [*faults, *warnings]
        if faults:
            result = counted(len(faults), "fault")
        else:
            result = f"valid, {counted(len(warnings), 'warning')}" if warnings else "valid"
        click.echo(f"{source}: {result}")
        for text in found:
            click.echo(f"  - {text}")
    if faults:
        ctx.exit(REFUSED)


def _warnings_of(source: str) -> list[str]:
    config = load_config(source)
    return chain_warnings(config, discover(disable=config.plugins.disable, only=config.plugins.only))


@config.command()
@_file_argument
@json_option
@debug_option
def show(file: str | None, as_json: bool) -> None:
    """Print the effective configuration of FILE, and where each value comes from.

    Defaults are filled in, variables expanded, and secrets hidden.
    """
    config = load_config(_required(file))
    effective, foreign = effective_config(config)
    from promenade_bus_cli.sources import (  # with PyYAML, which other commands do without
        annotated,
        sources_of,
    )

    sources = sources_of(config, effective, foreign)
    if as_json:
        told = {path: source.to_dict() for path, source in sources.items()}
        print_json({**effective, "file": config.source, "sources": told})
    else:
        click.echo(annotated(effective, sources), nl=False)
