"""Writes a new project."""

from __future__ import annotations

import tempfile
from pathlib import Path

from promenade_bus_new.errors import NewError
from promenade_bus_new.kinds import project_of
from promenade_bus_new.rendering import TEMPLATES, Answers, editions_of, render

__all__ = ["create"]


def create(kind: str, name: str, *, directory: Path, author: str) -> Path:
    """Writes a project of a kind into a new directory below ``directory``, and returns its path.

    The directory has the name of the distribution. It appears complete or not at all. Raises ``NewError`` for
    a name or an author that cannot be used, a directory that exists, and one that cannot be written.
    """
    project = project_of(kind, name)
    _check_author(author)
    target = directory / project.distribution
    if target.exists() or target.is_symlink():
        raise NewError(f"{str(target)!r} exists already; choose another name, or another --directory")
    if not directory.is_dir():
        raise NewError(f"there is no directory {str(directory)!r}")
    answers = Answers(project=project, author=author, edition=editions_of(TEMPLATES)[-1])
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=f".{project.distribution}-") as temporary:
            rendered = Path(temporary) / project.distribution
            render(answers, rendered)
            rendered.rename(target)
    except OSError as error:
        raise NewError(f"cannot write {str(target)!r}: {error}") from error
    return target


def _check_author(author: str) -> None:
    """Raises ``NewError`` for an author that the metadata of a distribution cannot have."""
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in author):
        problem = "is not text in UTF-8"
    elif "\0" in author or len(author.splitlines()) > 1:
        problem = "has more than one line"
    else:
        return
    raise NewError(f"the author {author!r} {problem}; name another one with --author, or in git's user.name")
