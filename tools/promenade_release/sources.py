"""The sources of a release: a clean copy, completed with what all distributions share.

A member's pyproject.toml says only what is its own. Here it gets the classifiers, keywords and addresses of
the root. The links of its README, which are relative paths on a code host, become addresses, because a
package index shows the README alone. Without an address they become plain text.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import tarfile
import tomllib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

__all__ = ["complete", "copy_sources", "members_of", "readme_for_index", "repository_of"]

_FENCE = re.compile(r"^(```+).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def copy_sources(root: Path, target: Path) -> None:
    """Copies the committed files of a checkout; what is not committed is no part of a release."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=root, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(target, filter="data")


def members_of(root: Path) -> list[Path]:
    """The directories of all distributions that are released, the core first. The example is not."""
    found = [
        path.parent for group in ("plugins", "contexts") for path in root.glob(f"{group}/*/pyproject.toml")
    ]
    return [root, *sorted(found)]


def project_of(directory: Path) -> Mapping[str, Any]:
    """The table ``project`` of a distribution."""
    project: Mapping[str, Any] = tomllib.loads((directory / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def repository_of(root: Path) -> str:
    """The address of the repository: ``tool.promenade.repository`` of the root, or an empty text."""
    document = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    return str(document.get("tool", {}).get("promenade", {}).get("repository", "")).rstrip("/")


def complete(root: Path, repository: str) -> None:
    """Adds what all distributions share to each of them, in a copy of the sources."""
    shared = project_of(root)
    for directory in members_of(root):
        file = directory / "pyproject.toml"
        own = project_of(directory)
        text = file.read_text("utf-8")
        for key in ("classifiers", "keywords"):
            values = sorted({*shared[key], *own.get(key, ())}, key=str.lower)
            line = f"{key} = [{', '.join(map(_quoted, values))}]\n"
            text = re.sub(rf"^{key} = \[.*?\]\n", "", text, count=1, flags=re.MULTILINE | re.DOTALL)
            text = text.replace("[project]\n", "[project]\n" + line, 1)
        if repository and "urls" not in own:
            text += "\n[project.urls]\n" + "".join(
                f"{name} = {_quoted(address)}\n"
                for name, address in _addresses(root, directory, repository).items()
            )
        file.write_text(text, "utf-8")
        readme = directory / own["readme"]
        place = readme.relative_to(root).as_posix()
        readme.write_text(readme_for_index(readme.read_text("utf-8"), place, repository), "utf-8")


def _addresses(root: Path, directory: Path, repository: str) -> Mapping[str, str]:
    here = directory.relative_to(root).as_posix()
    folder = "" if here == "." else f"{here}/"
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/main/{folder}README.md",
        "Changelog": f"{repository}/blob/main/{folder}CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def readme_for_index(text: str, place: str, repository: str) -> str:
    """A README as a package index shows it; ``place`` is its path in the repository."""

    def link(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            return found[0]
        if not repository:
            return words
        path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        return f"{picture}[{words}]({repository}/blob/main/{path})"

    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(link, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(link, text[end:])])
