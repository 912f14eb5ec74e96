"""``promenade-bus postgres``: creates and upgrades the tables, lists groups, and removes them.

This module needs click, which the command line installs. The adapter itself does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bus_core import AnyAdapter, BusError, Command
from bus_core.adapters import GroupReport

if TYPE_CHECKING:
    from promenade_bus_cli.group_commands import Use
    from promenade_bus_postgres.adapter import PostgresAdapter

__all__ = ["POSTGRES", "postgres_command"]


def postgres_command() -> Any:
    """Creates the command."""
    import click

    from promenade_bus_cli.group_commands import add_group_commands
    from promenade_bus_cli.options import required_config_option

    @click.group("postgres")
    def postgres() -> None:
        """Create and upgrade the tables in PostgreSQL, and list and remove groups."""

    @postgres.command()
    @click.option("--sql", "as_sql", is_flag=True, help="Print the statements, and change nothing.")
    @click.option(
        "--grant-to",
        "role",
        metavar="ROLE",
        help="Also allow a role what a running bus does, and nothing else.",
    )
    @required_config_option
    def migrate(as_sql: bool, role: str | None, config: str) -> None:
        """Create the tables of the bus, or bring them up to the version of this code.

        Needs the right to create tables in the schema. Buses that run meanwhile go on. With --sql, no
        connection is opened, and the statements of every version are printed.
        """
        from promenade_bus_postgres.schema import grants_of, script_of

        adapter = _chosen(config)
        schema = adapter.options.schema
        if as_sql:
            click.echo(script_of(schema), nl=False)
            if role is not None:
                click.echo("\n" + grants_of(schema, role), nl=False)
            return
        applied = adapter.migrate(role)
        if not applied:
            click.echo(f"the tables in the schema {schema} are up to date")
        for each in applied:
            click.echo(f"applied version {each.version}: {each.name}")
        if role is not None:
            click.echo(f"granted to {role} what a running bus does")

    add_group_commands(postgres, "the database", _run)
    return postgres


POSTGRES: Final = Command(
    help="Create and upgrade the tables in PostgreSQL, and list and remove groups.", load=postgres_command
)
"""The command ``postgres``, loaded when it is run."""


def _chosen(config: str) -> PostgresAdapter:
    from bus_core import open_bus

    return _postgres_of(config, open_bus(config).adapter)


def _postgres_of(config: str, adapter: AnyAdapter) -> PostgresAdapter:
    from promenade_bus_postgres.adapter import PostgresAdapter

    if not isinstance(adapter, PostgresAdapter):
        raise BusError(f"{config} selects the adapter {adapter.name!r}, not 'postgres'")
    return adapter


def _run(config: str, use: Use) -> Sequence[GroupReport]:
    from promenade_bus_cli.loading import run_on_adapter
    from promenade_bus_postgres.groups import PostgresGroups

    return run_on_adapter(
        config,
        lambda adapter: _postgres_of(config, adapter),
        lambda adapter: use(PostgresGroups(adapter.running)),
    )
