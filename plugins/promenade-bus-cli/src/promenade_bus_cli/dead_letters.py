"""``promenade-bus dead-letters``: what subscriptions gave up on, why, and the way back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import attrs
import click

from bus_core import DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetterTally
from bus_core.events import merge_tallies
from promenade_bus_cli.failures import INTERRUPTED, REFUSED, CommandFailed
from promenade_bus_cli.letters import Letters, age_of, filter_options, run_with_letters
from promenade_bus_cli.options import app_option, config_option, debug_option, json_option
from promenade_bus_cli.output import clean, counted, print_json, print_table, remark
from promenade_bus_cli.redriving import Removal, Removed
from promenade_bus_cli.signals import Signals

__all__ = ["dead_letters"]


@click.group("dead-letters")
def dead_letters() -> None:
    """Count, show, redrive and purge dead letters.

    These commands start only the adapter: they open no subscription and handle no event.
    """


# --- count ------------------------------------------------------------------------------------------------


_NAMES: dict[str, tuple[str, ...]] = {
    "error": ("error_type", "place"),
    "topic": ("topic",),
    "subscription": ("subscription",),
}


@dead_letters.command()
@click.option(
    "--by",
    type=click.Choice([*_NAMES]),
    help="Also for each group: of the same error class and place, topic, or subscription.",
)
@filter_options
@app_option
@config_option
@json_option
@debug_option
def count(
    where: DeadLetterFilter,
    by: Literal["error", "topic", "subscription"] | None,
    app: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Count dead letters, all or those that the options select."""

    async def counting(letters: Letters) -> tuple[int, list[DeadLetterTally]]:
        if by is None:
            return await letters.store.count(where), []
        tallies = await letters.store.tally(where)
        return sum(each.count for each in tallies), _grouped(tallies, _NAMES[by])

    total, groups = run_with_letters(app, config, counting)
    if as_json:
        told: dict[str, Any] = {"count": total}
        if by is not None:
            told |= {"by": by, "groups": [_as_data(each, _NAMES[by]) for each in groups]}
        print_json(told)
        return
    if by is not None and groups:
        columns = [*_NAMES[by], "count", "oldest", "newest"]
        print_table(
            [each.replace("_", "-") for each in columns], [_cells(each, _NAMES[by]) for each in groups]
        )
    click.echo(counted(total, "dead letter"))


def _grouped(tallies: Sequence[DeadLetterTally], names: tuple[str, ...]) -> list[DeadLetterTally]:
    """Tallies as those of fewer and larger groups: what does not count is empty."""
    others: dict[str, Any] = {
        name: "" for name in ("topic", "subscription", "error_type", "place") if name not in names
    }
    return merge_tallies(attrs.evolve(each, **others) for each in tallies)


def _as_data(tally: DeadLetterTally, names: tuple[str, ...]) -> dict[str, Any]:
    told = tally.to_dict()
    return {name: told[name] for name in (*names, "count", "oldest", "newest")}


def _cells(tally: DeadLetterTally, names: tuple[str, ...]) -> list[str]:
    shown = [str(getattr(tally, name)) for name in names]
    return [*shown, f"{tally.count:,}", age_of(tally.oldest), age_of(tally.newest)]


# --- list -------------------------------------------------------------------------------------------------


@dead_letters.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option("--cursor", metavar="TEXT", help="Go on where the page before has ended.")
@filter_options
@app_option
@config_option
@json_option
@debug_option
def list_letters(
    where: DeadLetterFilter,
    limit: int,
    cursor: str | None,
    app: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """List dead letters, the oldest first, without what they carry."""

    async def listing(letters: Letters) -> DeadLetterPage:
        found = DeadLetterPage(next_cursor=cursor)
        while len(found) < limit:
            try:
                page = await letters.store.page(where, found.next_cursor, limit - len(found))
            except ValueError as error:
                raise CommandFailed(f"--cursor: {error}") from error
            found += page
            found.next_cursor = page.next_cursor
            if page.next_cursor is None:
                break
        return found

    page = run_with_letters(app, config, listing)
    if as_json:
        told = [letter.to_dict(body=False) for letter in page]
        print_json({"letters": told, "next_cursor": page.next_cursor})
        return
    if page:
        columns = ["id", "died", "topic", "subscription", "attempts", "error", "place"]
        print_table(columns, [_row(letter) for letter in page])
    else:
        click.echo("no dead letter")
    if page.next_cursor is not None:
        remark(f"there are more: --cursor {page.next_cursor}")


def _row(letter: DeadLetter) -> list[str]:
    error_type, place = letter.failure
    return [
        letter.id,
        f"{age_of(letter.dead_at)} ago",
        letter.topic,
        letter.subscription,
        str(len(letter.attempts)),
        error_type,
        place,
    ]


# --- show -------------------------------------------------------------------------------------------------


@dead_letters.command()
@click.argument("letter_id", metavar="ID")
@click.option("--traceback", is_flag=True, help="Show the tracebacks, if 'bus.tracebacks' has kept them.")
@click.option("--show-data", is_flag=True, help="Show the body as it is, with all personal data in it.")
@app_option
@config_option
@json_option
@debug_option
def show(
    letter_id: str,
    traceback: bool,
    show_data: bool,
    app: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Show a dead letter: why it is one, every attempt, its headers, and its event.

    Values that are marked as personal are hidden. Where the class of the event is not installed nobody knows
    which are, and the event is withheld.
    """

    async def showing(letters: Letters) -> tuple[DeadLetter, dict[str, Any]]:
        letter = await letters.store.get(letter_id)
        return letter, {} if show_data else letters.data_of(letter)

    letter, data = run_with_letters(app, config, showing)
    if as_json:
        told = {**letter.to_dict(body=show_data), **data}
        if not traceback:
            for attempt in told["attempts"]:
                attempt.pop("traceback", None)
        print_json(told)
        return
    _print_letter(letter, traceback=traceback)
    click.secho("event", bold=True)
    if "withheld" in data:
        click.echo(f"  withheld: {clean(data['withheld'])}; --show-data shows the body as it is")
    else:
        for line in _event_lines(letter, data):
            click.echo(f"  {clean(line)}")


def _print_letter(letter: DeadLetter, *, traceback: bool) -> None:
    for name, value in (
        ("id", letter.id),
        ("topic", letter.topic),
        ("subscription", letter.subscription),
        ("event", "unknown" if letter.event_id is None else str(letter.event_id)),
        ("key", letter.key),
        ("died", f"{letter.dead_at.isoformat()} ({age_of(letter.dead_at)} ago)"),
        ("reason", letter.reason),
    ):
        click.echo(f"{name.ljust(14)}{clean(value)}")
    click.secho("attempts", bold=True)
    for attempt in letter.attempts:
        click.echo(f"  {attempt.number}  {attempt.at.isoformat()}  {clean(attempt.error)}")
        if attempt.place:
            click.echo(f"     at {clean(attempt.place)}")
        if traceback:
            for line in attempt.traceback.split("\n") if attempt.traceback else ["no traceback was kept"]:
                click.echo(f"     | {clean(line)}")
    click.secho("headers", bold=True)
    for name, value in letter.headers.items():
        click.echo(f"  {clean(name)}: {clean(value)}")


def _event_lines(letter: DeadLetter, data: dict[str, Any]) -> list[str]:
    """The event without what is personal; the body, if that is wanted."""
    if "event" in data:
        return json.dumps(data["event"], indent=2, ensure_ascii=False).split("\n")
    try:
        return json.dumps(json.loads(letter.body), indent=2, ensure_ascii=False).split("\n")
    except (ValueError, RecursionError):
        return letter.body.decode(errors="backslashreplace").split("\n")


# --- redrive and purge ------------------------------------------------------------------------------------


def _removing(command: Any) -> Any:
    """Adds the arguments and options that both have."""
    for option in (
        debug_option,
        json_option,
        config_option,
        app_option,
        filter_options,
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        click.option("--all", "everything", is_flag=True, help="All dead letters there are."),
        click.argument("letter_ids", metavar="[ID]...", nargs=-1),
    ):
        command = option(command)
    return command


@dead_letters.command()
@_removing
@click.pass_context
def redrive(ctx: click.Context, /, **options: Any) -> None:
    """Send dead letters back to the subscription that failed, and only to it.

    Select them by ID, by options, or say --all. Their attempts start at 1, their history is kept. Those that
    die anew meanwhile are left alone. Ctrl-C stops after what is under way, and says how to go on: each
    letter is moved as a whole, or stays. Exit status 1 when one could not be moved.
    """
    _remove(ctx, "redrive", **options)


@dead_letters.command()
@_removing
@click.pass_context
def purge(ctx: click.Context, /, **options: Any) -> None:
    """Delete dead letters. Nobody can bring them back.

    Select them by ID, by options, or say --all. Ctrl-C stops after what is under way, and says how to go on.
    """
    _remove(ctx, "purge", **options)


def _remove(
    ctx: click.Context,
    action: Literal["redrive", "purge"],
    *,
    where: DeadLetterFilter,
    letter_ids: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    app: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    signals = Signals()
    bus = ("--app", app) if app is not None else ("--config", config or "")
    removal = Removal(action, where, letter_ids, everything=everything, dry_run=dry_run, yes=yes, bus=bus)
    done: Removed = run_with_letters(app, config, lambda letters: removal.run(letters, signals), signals)
    if as_json:
        print_json(done.as_data())
    else:
        for line in done.lines():
            click.echo(line)
    if done.interrupted:
        ctx.exit(INTERRUPTED)
    if done.kept:
        ctx.exit(REFUSED)
