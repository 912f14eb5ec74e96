"""Brings the changes of later templates into a project.

copier updates from templates in a git repository only; these travel inside of a wheel. So copier renders two
editions: that of the project, and the latest one. ``git merge-file`` merges the difference between them into
each file of the project.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from promenade_bus_new.errors import NewError
from promenade_bus_new.rendering import ANSWERS, TEMPLATES, editions_of, read_answers, render

__all__ = ["Change", "Update", "update"]


@attrs.frozen
class Change:
    """A file, and what was done to it: ``added``, ``changed``, ``removed``, ``conflict`` or ``kept``."""

    path: str
    what: str


@attrs.frozen
class Update:
    """An update from one edition to another; the two are equal if there was nothing to do."""

    before: int
    after: int
    changes: tuple[Change, ...]

    @property
    def conflicts(self) -> list[str]:
        """The files in which both the project and the template changed the same lines."""
        return [change.path for change in self.changes if change.what == "conflict"]


def update(directory: Path, *, templates: Path | None = None) -> Update:
    """Updates the project in a directory to the latest edition of ``templates``, by default those installed.

    Changes of the project are kept. Where both changed the same lines, the file gets both versions between
    marks, as after a merge by git. A file that the project removed stays removed, and one that the
    template removed stays if the project changed it. Symbolic links are left alone; the file of the answers
    must not be one.

    Raises ``NewError``, and changes nothing, if the directory was not written by ``promenade-bus new``, or
    by a later version of it. The same goes for one without a git repository, and for uncommitted changes.
    A file that cannot be written ends the update half-way; the error says how to undo it.
    """
    templates = templates or TEMPLATES
    if (directory / ANSWERS).is_symlink():
        raise NewError(
            f"{str(directory / ANSWERS)!r} is a symbolic link, which an update would have to write through; "
            "replace it by a file with its content, and commit"
        )
    answers = read_answers(directory)
    latest = editions_of(templates)[-1]
    if answers.edition > latest:
        raise NewError(
            f"{str(directory)!r} was written by edition {answers.edition} of the templates, and this is "
            f"edition {latest}; run 'pip install --upgrade promenade-bus-new'"
        )
    if answers.edition == latest:
        return Update(latest, latest, ())
    if answers.edition not in editions_of(templates):
        raise NewError(f"{directory / ANSWERS} names edition {answers.edition}, which does not exist")
    _check_committed(directory)
    with tempfile.TemporaryDirectory(prefix="promenade-bus-new-") as temporary:
        before, after = Path(temporary) / "before", Path(temporary) / "after"
        render(answers, before, templates)
        render(attrs.evolve(answers, edition=latest), after, templates)
        steps = [
            step
            for path in sorted({*_files(before), *_files(after)})
            if (step := _step(path, before, after, directory, Path(temporary) / "merged"))
        ]
    for step in steps:
        _check_tracked(step, directory)
    _carry_out_all(steps, directory)  # everything could be merged
    return Update(answers.edition, latest, tuple(step.change for step in steps))


def _files(directory: Path) -> list[str]:
    return [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]


@attrs.frozen
class _Step:
    """A change, and the new content of its file; None if it has none."""

    change: Change
    content: bytes | None = None


def _step(path: str, before: Path, after: Path, project: Path, merged: Path) -> _Step | None:
    """The change of one file; None if there is nothing to do."""
    old, new, own = (_bytes(directory / path) for directory in (before, after, project))
    if new in (old, own):
        return None
    if _leaves(project, path):
        return _Step(Change(path, "kept"))
    if own is None:
        return _Step(Change(path, "added"), new) if old is None else _Step(Change(path, "kept"))
    if new is None:
        return _Step(Change(path, "removed" if own == old else "kept"))
    if own == old:
        return _Step(Change(path, "changed"), new)
    for file, content in ((merged / path, own), (before / path, old or b"")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    titles = ("yours", "the template before", "the template now")
    labels = (part for title in titles for part in ("-L", title))
    files = (str(merged / path), str(before / path), str(after / path))
    done = _git(project, "merge-file", "--quiet", *labels, *files)
    if not 0 <= done.returncode <= _MOST_CONFLICTS:
        raise NewError(f"git cannot merge {path!r}: {done.stderr.strip()}")
    return _Step(Change(path, "conflict" if done.returncode else "changed"), _bytes(merged / path))


def _carry_out_all(steps: Iterable[_Step], project: Path) -> None:
    """Carries the steps out; that of the answers last, because it says that the update is complete."""
    for step in sorted(steps, key=lambda step: step.change.path == ANSWERS):
        try:
            _carry_out(step, project)
        except OSError as error:
            raise NewError(
                f"the update of {str(project)!r} stopped half-way at {step.change.path!r}: {error}; "
                "mend that, undo the changes with 'git checkout -- . && git clean -d --force .', and repeat"
            ) from error


def _carry_out(step: _Step, project: Path) -> None:
    file = project / step.change.path
    if step.content is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(step.content)
    elif step.change.what == "removed":
        file.unlink()


_MOST_CONFLICTS: Final = 127
"""``git merge-file`` returns the number of conflicts, at most this, or 255 for an error."""


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _leaves(project: Path, path: str) -> bool:
    """True if a symbolic link is in the way: writing would change what it points to."""
    parts = Path(path).parts
    return any(project.joinpath(*parts[:count]).is_symlink() for count in range(1, len(parts) + 1))


def _check_tracked(step: _Step, project: Path) -> None:
    """Raises ``NewError`` if a step would change a file that git does not know, such as an ignored one."""
    path = step.change.path
    if step.change.what == "kept" or not (project / path).is_file():
        return
    if _git(project, "ls-files", "--error-unmatch", "--", path).returncode:
        raise NewError(
            f"{str(project)!r} has changes that are not committed: git does not track {path!r}; "
            "commit or move it, so that you can see what the update does"
        )


def _check_committed(directory: Path) -> None:
    """Raises ``NewError`` unless git could undo everything that happens to the directory."""
    done = _git(directory, "status", "--porcelain", "--", ".")
    if done.returncode:
        raise NewError(
            f"{str(directory)!r} is in no git repository, so that nobody could undo the update; "
            "run 'git init' there and commit first"
        )
    if done.stdout.strip():
        raise NewError(
            f"{str(directory)!r} has changes that are not committed; commit or stash them, "
            "so that you can see what the update does"
        )


def _git(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=directory,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise NewError("an update needs git, which is not installed or not on PATH") from None
