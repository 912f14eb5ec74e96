"""Fragments of changelogs: ``python -m promenade_release.changelog`` moves them into the changelogs.

``changelog.d/README.md`` says how a fragment is named.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import attrs

from promenade_release.sources import members_of, project_of

__all__ = ["Fragment", "collect", "fragments_of", "main"]

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")
_NAME = re.compile(r"([a-z0-9-]+)\.([a-z]+)\.([a-z0-9-]+)\.md")


@attrs.frozen
class Fragment:
    """A change that a changelog does not have yet."""

    path: Path
    distribution: str
    kind: str
    text: str


def fragments_of(root: Path) -> tuple[list[Fragment], list[str]]:
    """The fragments of a checkout, sorted by name, and what is wrong with the others."""
    known = {str(project_of(directory)["name"]) for directory in members_of(root)}
    found: list[Fragment] = []
    wrong: list[str] = []
    for path in sorted((root / "changelog.d").glob("*")):
        if path.name == "README.md":
            continue
        parts = _NAME.fullmatch(path.name)
        text = path.read_text("utf-8").strip()
        if parts is None:
            wrong.append(f"{path.name}: the name must be <distribution>.<kind>.<words>.md")
        elif parts[1] not in known:
            wrong.append(f"{path.name}: there is no distribution {parts[1]}")
        elif parts[2] not in KINDS:
            wrong.append(f"{path.name}: the kind is {parts[2]}, and must be one of {', '.join(KINDS)}")
        elif not text or text.startswith(("-", "#")):
            wrong.append(f"{path.name}: the text must be that of one item, without a bullet or a heading")
        else:
            found.append(Fragment(path, parts[1], parts[2], text))
    return found, wrong


def collect(root: Path) -> list[Fragment]:
    """Moves every fragment into the changelog of its distribution; raises ``ValueError`` for a wrong one."""
    found, wrong = fragments_of(root)
    if wrong:
        raise ValueError("\n".join(wrong))
    directories = {str(project_of(directory)["name"]): directory for directory in members_of(root)}
    for fragment in reversed(found):  # each goes to the top of its kind
        file = directories[fragment.distribution] / "CHANGELOG.md"
        file.write_text(_with_item(file.read_text("utf-8"), fragment), "utf-8")
        fragment.path.unlink()
    return found


def _with_item(changelog: str, fragment: Fragment) -> str:
    """A changelog with one more item in its unreleased section."""
    item = "- " + fragment.text.replace("\n", "\n  ") + "\n"
    title = re.search(r"^## \[.+?\] - unreleased\n", changelog, re.MULTILINE)
    if title is None:
        raise ValueError(f"{fragment.distribution}: its changelog has no section '## [x.y.z] - unreleased'")
    following = re.compile(r"^## ", re.MULTILINE).search(changelog, title.end())
    end = following.start() if following else len(changelog)
    section = changelog[title.end() : end]
    heading = f"### {fragment.kind.capitalize()}\n\n"
    if heading in section:
        section = section.replace(heading, heading + item, 1)
    else:
        section = f"{section.rstrip()}\n\n{heading}{item}" + ("\n" if following else "")
    return changelog[: title.end()] + section + changelog[end:]


def main() -> int:
    """Moves all fragments, and says how many."""
    try:
        moved = collect(ROOT)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"==> moved {len(moved)} fragments into the changelogs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
