"""Renders the templates of one edition with copier.

An edition is a directory of templates, named by a number. A released edition never changes: a change of the
templates is a new edition, and a project that was made from an earlier one can be updated to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import attrs
import yaml

from promenade_bus_new.errors import NewError
from promenade_bus_new.kinds import KINDS, Project, well_formed

__all__ = ["ANSWERS", "TEMPLATES", "Answers", "editions_of", "read_answers", "render"]

TEMPLATES: Final = Path(__file__).with_name("templates")
ANSWERS: Final = ".copier-answers.yml"
"""The file in a project that holds its kind, its name and its edition."""

_SOURCE: Final = "promenade-bus-new"


@attrs.frozen(kw_only=True)
class Answers:
    """Everything that a project is rendered from."""

    project: Project
    author: str
    edition: int


def editions_of(templates: Path) -> list[int]:
    """The numbers of the editions in a directory, the latest last."""
    return sorted(int(path.name) for path in templates.iterdir() if path.name.isdecimal())


def render(answers: Answers, target: Path, templates: Path = TEMPLATES) -> None:
    """Writes all files of a project into a directory, which should be empty."""
    import copier  # takes a while, and --help does not need it

    project = answers.project
    for part in ("common", *(() if project.kind == "app" else ("distribution",)), project.kind):
        copier.run_copy(
            str(templates / str(answers.edition)),
            target,
            data={
                "part": part,
                "kind": project.kind,
                "name": project.name,
                "author": answers.author,
                "author_string": _toml_string(answers.author),
                "edition": answers.edition,
                "distribution": project.distribution,
                "package": project.package,
                "title": project.title,
                "what": KINDS[project.kind],
            },
            defaults=True,
            overwrite=True,
            quiet=True,
        )


def _toml_string(text: str) -> str:
    """A string of TOML, which knows the escapes of JSON, but neither surrogates nor a bare DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_answers(directory: Path) -> Answers:
    """The answers that a project keeps. Raises ``NewError`` if it has none, or unreadable ones."""
    file = directory / ANSWERS
    try:
        kept = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError:
        raise NewError(
            f"{str(directory)!r} was not written by 'promenade-bus new': it has no file {ANSWERS}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise NewError(f"{file} cannot be read: {error}") from error
    if not isinstance(kept, dict) or kept.get("_src_path") != _SOURCE:
        raise NewError(f"{file} is of another template, not of {_SOURCE}")
    try:
        project = well_formed(str(kept["kind"]), str(kept["name"]))
        return Answers(project=project, author=str(kept["author"]), edition=int(kept["_commit"]))
    except (KeyError, ValueError) as error:
        raise NewError(
            f"{file} has been changed: {error} is missing or no number; restore the file"
        ) from error
