"""``promenade-bus contracts``: the group of commands, and ``lock`` and ``check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from promenade_bus_cli.failures import REFUSED, CommandFailed
from promenade_bus_cli.options import debug_option, json_option
from promenade_bus_cli.output import clean, counted, print_json
from promenade_bus_contracts.boundaries import violations
from promenade_bus_contracts.changes import Change, breaking, changes_of
from promenade_bus_contracts.checking import check as check_contracts
from promenade_bus_contracts.checking import lines_of
from promenade_bus_contracts.documents import asyncapi, docs
from promenade_bus_contracts.examples import Examples
from promenade_bus_contracts.golden import keep_golden_events
from promenade_bus_contracts.lock_files import lock_path, read_lock, write_lock
from promenade_bus_contracts.published import PublishedTopic
from promenade_bus_contracts.sources import Source, directory_option, read_source, source_options

__all__ = ["contracts"]


@click.group()
def contracts() -> None:
    """Lock, check and document the contracts of contexts."""


contracts.add_command(asyncapi)
contracts.add_command(docs)


@contracts.command()
@source_options
@directory_option
@click.option(
    "--examples",
    multiple=True,
    metavar="MODULE",
    help="A module with EXAMPLES, a sequence of events. Those in PACKAGE.examples are found by themselves.",
)
@click.option(
    "--accept-breaking", is_flag=True, help="Write the lock files although changes break subscribers."
)
@json_option
@debug_option
def lock(
    apps: tuple[str, ...],
    config: str | None,
    contexts: tuple[str, ...],
    directory: Path,
    examples: tuple[str, ...],
    accept_breaking: bool,
    as_json: bool,
) -> None:
    """Write a lock file for each catalogue, and keep a golden event of each new version.

    Commit both. Refuses to lock a change that breaks subscribers.
    """
    source = read_source(apps, config, contexts)
    if not source.contracts:
        raise CommandFailed("no catalogue is installed, so that there is nothing to lock; pass --app")
    refused = [] if accept_breaking else breaking(_all_changes(source, directory))
    if refused:
        listed = "\n".join(f"  {change}\n    remedy: {change.remedy}" for change in refused)
        raise CommandFailed(
            f"{counted(len(refused), 'change')} would break subscribers:\n{listed}\n"
            "Nothing was written. Correct them, or pass --accept-breaking.",
            REFUSED,
        )
    known, written, missing = Examples(examples), list[Path](), list[PublishedTopic]()
    for contract in source.contracts.values():
        if write_lock(directory, contract):
            written.append(lock_path(directory, contract.context))
        paths, without = keep_golden_events(directory, contract, known)
        written += paths
        missing += without
    if as_json:
        print_json(
            {"written": [str(path) for path in written], "without_example": [each.name for each in missing]}
        )
        return
    for path in written:
        click.echo(f"wrote {path}")
    if not written:
        click.echo(f"{counted(len(source.contracts), 'lock file')} up to date")
    for topic in missing:
        module = topic.event_class.__module__.rpartition(".")[0] or topic.event_class.__module__
        click.echo(
            f"no golden event of {topic.name}: the rules of {topic.event_class.__name__} need an example; "
            f"add one to {module}.examples.EXAMPLES, or pass --examples MODULE"
        )


def _all_changes(source: Source, directory: Path) -> list[Change]:
    found: list[Change] = []
    for context, contract in source.contracts.items():
        locked = read_lock(directory, context)
        if locked is not None:
            found += changes_of(locked, contract, context, source.subscribers)
    return found


@contracts.command()
@source_options
@directory_option
@click.option("--frozen", is_flag=True, help="Fail also if a harmless change is not locked yet.")
@json_option
@debug_option
def check(
    apps: Sequence[str],
    config: str | None,
    contexts: Sequence[str],
    directory: Path,
    frozen: bool,
    as_json: bool,
) -> None:
    """Compare the contracts with their lock files, and read the golden events.

    Exit status: 0 if nothing breaks, 1 if a change breaks subscribers, a golden event cannot be read, or a
    catalogue has no lock file. A breaking change needs a new version and an upcaster.
    """
    report = check_contracts(directory, read_source(apps, config, contexts), contexts)
    is_stale = frozen and bool(report.changes)
    if as_json:
        print_json({**report.as_data(), "stale": bool(report.changes)})
    else:
        for line in lines_of(report, directory):
            click.echo(clean(line))
        if not report.knows_subscribers and any(change.verdict != "harmless" for change in report.changes):
            click.echo("pass --app MODULE:ATTR to see which subscriptions receive these topics")
        click.echo(_summary(report.is_broken, report.changes, is_stale))
    if report.is_broken or is_stale:
        raise SystemExit(REFUSED)


def _summary(is_broken: bool, changes: Sequence[Change], is_stale: bool) -> str:
    if is_broken:
        return "the contracts are broken"
    if is_stale:
        return "the lock files are not up to date: run 'promenade-bus contracts lock', and commit them"
    if changes:
        return "nothing breaks; run 'promenade-bus contracts lock' to lock the changes"
    return "the contracts are as locked"


@contracts.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default=Path("pyproject.toml"))
@json_option
@debug_option
def verify(file: Path, as_json: bool) -> None:
    """Find imports that cross the boundaries of contexts.

    FILE has the boundaries: pyproject.toml with [tool.promenade-bus.boundaries], or YAML with the section
    'boundaries'. Exit status 1 if a context imports another context's code or a private part of its
    contract.
    """
    found = violations(file)
    if as_json:
        print_json([violation.as_data() for violation in found])
    elif found:
        for violation in found:
            click.echo(clean(str(violation)))
        click.echo(f"{counted(len(found), 'import')} across boundaries")
    else:
        click.echo("no import crosses a boundary")
    if found:
        raise SystemExit(REFUSED)
