"""``promenade-bus plugins``: lists the installed plugins and checks them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from bus_core.plugins import Finding, InstalledPlugin, Plugins
from promenade_bus_cli.failures import REFUSED, CommandFailed
from promenade_bus_cli.loading import load_command
from promenade_bus_cli.options import config_option, debug_option, json_option
from promenade_bus_cli.output import counted, print_json, print_table
from promenade_bus_cli.topics import installed_plugins

__all__ = ["plugins"]


@click.group()
def plugins() -> None:
    """List the installed plugins, and check them."""


@plugins.command("list")
@config_option
@json_option
@debug_option
def list_plugins(config: str | None, as_json: bool) -> None:
    """List the plugins with their distributions, their status, and what they offer."""
    installed = installed_plugins(config).installed
    if as_json:
        print_json([_as_data(plugin) for plugin in installed])
        return
    rows = [[plugin.name, plugin.origin, plugin.status, _offers(plugin)] for plugin in installed]
    print_table(["plugin", "from", "status", "offers"], rows)


def _as_data(plugin: InstalledPlugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
        "status": plugin.status,
        "cause": plugin.cause,
        "offers": [{"kind": kind, "name": name} for kind, name in plugin.offers],
    }


def _offers(plugin: InstalledPlugin) -> str:
    if plugin.cause:
        return plugin.cause
    by_kind: dict[str, list[str]] = {}
    for kind, name in plugin.offers:
        by_kind.setdefault(kind, []).append(name)
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in by_kind.items())


@plugins.command()
@config_option
@json_option
@debug_option
@click.pass_context
def doctor(ctx: click.Context, config: str | None, as_json: bool) -> None:
    """Report broken, conflicting and outdated plugins, and commands that cannot be loaded.

    Exit status 1 when there is an error, 0 when there are only warnings.
    """
    found = installed_plugins(config)
    findings = sorted(
        [*found.findings(), *_broken_commands(found)], key=lambda finding: finding.severity != "error"
    )
    if as_json:
        print_json(
            [
                {
                    "severity": finding.severity,
                    "plugin": finding.plugin,
                    "what": finding.what,
                    "what_to_do": finding.what_to_do,
                }
                for finding in findings
            ]
        )
    elif findings:
        for finding in findings:
            click.secho(f"{finding.severity}: {finding.plugin}", bold=True)
            click.echo(f"  {finding.what}\n  what to do: {finding.what_to_do}")
    else:
        loaded = sum(plugin.status == "loaded" for plugin in found.installed)
        click.echo(f"no problems found: {counted(loaded, 'plugin')} loaded")
    if any(finding.severity == "error" for finding in findings):
        ctx.exit(REFUSED)


def _broken_commands(found: Plugins) -> Iterator[Finding]:
    """Loads every command, and yields a finding for each that fails."""
    for offer in found.commands:
        try:
            load_command(offer)
        except CommandFailed as error:
            yield Finding("error", offer.origin, error.message, "repair, upgrade or uninstall it")
