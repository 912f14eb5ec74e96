"""``promenade-bus account``: reads the journals of a fault test, and prints the account.

Only the command line imports this module, so the testing kit does not depend on click.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from promenade_bus_testing.account import Account, SubscriptionAccount

__all__ = ["account_command"]


def account_command() -> Any:
    """Makes the click command."""
    import click

    @click.command("account")
    @click.argument("journals", nargs=-1, required=True, type=click.Path(exists=True))
    @click.option(
        "--duplicates",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="The number of duplicates allowed in total.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    def account(ctx: click.Context, journals: tuple[str, ...], duplicates: int, as_json: bool) -> None:
        """Report the outcome of each event from JOURNALS, files or directories.

        Exit status: 0 when the account adds up, 1 when it does not.
        """
        try:
            found = Account.of(*journals, duplicates=duplicates)
        except OSError as error:
            raise click.ClickException(str(error)) from error
        if as_json:
            click.echo(json.dumps(found.as_data(), indent=2))
        else:
            for line in as_lines(found):
                click.echo(line)
        ctx.exit(0 if found.adds_up else 1)

    return account


def as_lines(account: Account) -> list[str]:
    """Returns the account as lines: a table of the subscriptions, sentences, and the faults."""
    names = [field.name for field in attrs.fields(SubscriptionAccount)]
    rows = [[name.replace("_", "-").upper() for name in ["subscription", *names[1:]]]]
    rows += [[str(getattr(each, name)) for name in names] for each in account.subscriptions]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.append(
        f"{account.attempted} events attempted, {account.acknowledged} acknowledged, {account.stuck} stuck, "
        f"{account.counted_lost} counted as lost by the bus, {account.torn} journals torn"
    )
    if account.recovery is not None:
        caught_up = "" if account.caught_up is None else f", caught up after {account.caught_up:.3f} s"
        lines.append(f"recovered {account.recovery:.3f} s after it was healed{caught_up}")
    if account.adds_up:
        return [*lines, "The account adds up."]
    return [*lines, "The account does not add up:", *(f"  {fault}" for fault in account.faults)]
