"""``promenade-bus new``: the command."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import click

from promenade_bus_cli.options import debug_option
from promenade_bus_new.creating import create
from promenade_bus_new.errors import NewError
from promenade_bus_new.kinds import KINDS
from promenade_bus_new.updating import update

__all__ = ["new"]

_CONFLICTS: Final = 1
"""The exit status of an update that left conflicts."""

_NEXT: Final = "python -m pip install -e '.[test]' && python -m pytest"


@click.command(epilog="\b\nKinds:\n" + "\n".join(f"  {kind:13} {what}" for kind, what in KINDS.items()))
@click.argument("kind", required=False, metavar="[KIND")
@click.argument("name", required=False, metavar="NAME]")
@click.option(
    "--directory",
    metavar="DIRECTORY",
    default=".",
    type=click.Path(path_type=Path),
    help="Write the project below this directory, or update the project in it. Default: the current one.",
)
@click.option("--author", metavar="TEXT", help="The author in pyproject.toml. Default: git's user.name.")
@click.option(
    "--update", "updating", is_flag=True, help="Bring later changes of the template into a project."
)
@debug_option
@click.pass_context
def new(
    ctx: click.Context,
    kind: str | None,
    name: str | None,
    directory: Path,
    author: str | None,
    updating: bool,
) -> None:
    """Write a plugin, a context or an application, or update one.

    It is a complete distribution with code, tests, README, changelog and CI. KIND is adapter, serializer,
    middleware, retry-policy, health-probe, command, context or app. With --update the project keeps your
    changes. Exit status: 1 when an update left conflicts to resolve.
    """
    if updating:
        if kind is not None:
            raise NewError("--update takes no KIND and no NAME; name the project with --directory")
        ctx.exit(_update(directory))
    if kind is None or name is None:
        raise NewError(
            f"say what to write, as in 'promenade-bus new middleware audit'; kinds: {', '.join(KINDS)}"
        )
    path = create(kind, name, directory=directory, author=author or _git_user() or "The authors")
    for file in sorted(each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()):
        click.echo(f"  {file}")
    click.echo(f"wrote {path}; next:")
    click.echo(f"  cd {path} && {_NEXT}")


def _update(directory: Path) -> int:
    done = update(directory)
    if done.before == done.after:
        click.echo(f"up to date: edition {done.after} of the templates is the latest one")
        return 0
    for change in done.changes:
        click.echo(f"  {change.what:8}  {change.path}")
    click.echo(f"updated from edition {done.before} of the templates to edition {done.after}")
    if not done.conflicts:
        return 0
    click.echo("resolve the conflicts: edit these files between the marks '<<<<<<<' and '>>>>>>>'", err=True)
    return _CONFLICTS


def _git_user() -> str:
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, check=False)
    except OSError:
        return ""
    try:
        return done.stdout.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise NewError(
            f"git's user.name is not text in UTF-8: {done.stdout.strip()!r}; name the author with --author"
        ) from None
