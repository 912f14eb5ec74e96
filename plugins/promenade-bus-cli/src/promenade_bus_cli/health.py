"""``promenade-bus health``: starts the bus, runs its probes, and prints the results."""

from __future__ import annotations

from typing import Final

import click

from bus_core import HealthReport, HealthStatus
from promenade_bus_cli.apps import App, run_with_app
from promenade_bus_cli.failures import REFUSED, UNHEALTHY
from promenade_bus_cli.options import app_option, config_option, debug_option, json_option
from promenade_bus_cli.output import print_json, print_table, remark

__all__ = ["health"]


@click.command()
@app_option
@config_option
@json_option
@debug_option
@click.pass_context
def health(ctx: click.Context, app: str | None, config: str | None, as_json: bool) -> None:
    """Start the bus, run its health probes, and close it.

    With --app the application's subscriptions take part. Exit status: 0 healthy, 1 degraded, 3 unhealthy,
    4 when the server or the storage cannot be reached.
    """
    report, inside = run_with_app(app, config, _examined)
    if as_json:
        print_json(report.to_dict())
    else:
        rows = [[name, check.status.value, check.summary] for name, check in report.checks.items()]
        print_table(["check", "status", "summary"], rows)
        click.echo(report.status.value)
    if inside is not None:
        remark(inside)
    ctx.exit(_STATUSES[report.status])


_STATUSES: Final = {
    HealthStatus.HEALTHY: 0,
    HealthStatus.DEGRADED: REFUSED,
    HealthStatus.UNHEALTHY: UNHEALTHY,
}


async def _examined(app: App) -> tuple[HealthReport, str | None]:
    await app.start()
    try:
        report = await app.health()
    finally:
        await app.close()
    if not app.stays_inside:
        return report, None
    return report, (
        f"note: the adapter {app.bus.adapter.name!r} stores nothing outside its process, so this report "
        "does not cover buses in other processes"
    )
