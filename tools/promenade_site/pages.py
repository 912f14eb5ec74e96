"""The Markdown pages of the repository as pages of the site, with their links.

A page has one text for both of its readers. On a code host its links are relative paths between files. Here
they become paths between the pages of the site, and files that are no pages are copied beside them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["SECTIONS", "Page", "Site", "headings_of", "links_of"]

_FENCE = re.compile(r"^(```+|~~~+).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\[[^\]\n]*\]\()([^)\s]+)(\))")
_DIAGRAM = re.compile(r"^!\[([^\]]*)\]\((?:\.\./)*(diagrams/[\w-]+\.svg)\)$", re.MULTILINE)
_HEADING = re.compile(r"^(#+) (.+?)\s*$", re.MULTILINE)

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Tutorial": ("tutorial", "guide"),
    "How to": (
        "how-to/start-on-sqlite",
        "how-to/run-on-redis",
        "how-to/publish-from-a-transaction",
        "how-to/test-your-handlers",
        "how-to/deploy-a-worker",
        "how-to/on-call",
        "how-to/*",
        "how-to/write-a-context",
        "how-to/change-a-contract",
        "how-to/write-a-plugin",
        "how-to/write-an-adapter",
        "how-to/write-an-observer",
        "how-to/write-a-serializer",
    ),
    "Explanation": ("explanation/delivery", "explanation/design", "explanation/*", "*", "decisions/README"),
    "Reference": ("reference/*", "reference/parts/*", "reference/api/index"),
    "Packages": ("packages/*",),
    "Project": ("changelog", "contributing", "fragments"),
}
"""The sections of the navigation, each with its pages in order. A star stands for all pages not named."""


@dataclass
class Page:
    """A page of the site: its name there, its text, and the file that it came from."""

    name: str
    text: str
    source: str = ""
    suffix: str = ".md"


@dataclass
class Site:
    """All pages of a checkout, and the files that they show or offer.

    ``generated`` are pages that no file holds, by name. ``address`` is where people can read the repository,
    or an empty text. Without one, a file that is no page is copied beside the pages.
    """

    root: Path
    generated: Mapping[str, Page] = field(default_factory=dict)
    address: str = ""
    files: dict[str, Path] = field(default_factory=dict)

    def names(self) -> dict[Path, str]:
        """The name of each page of the repository, by its file."""
        docs = self.root / "docs"
        found = {
            self.root / "README.md": "index",
            self.root / "CHANGELOG.md": "changelog",
            self.root / "CONTRIBUTING.md": "contributing",
            self.root / "changelog.d" / "README.md": "fragments",
        }
        for path in sorted(docs.rglob("*.md")):
            found[path] = path.relative_to(docs).with_suffix("").as_posix()
        for path in sorted(self.root.glob("plugins/*/README.md")):
            found[path] = f"packages/{path.parent.name.removeprefix('promenade-')}"
        for path in sorted(self.root.glob("contexts/*/README.md")):
            found[path] = f"packages/context-{path.parent.name}"
        for path in sorted(self.root.glob("examples/*/README.md")):
            found[path] = f"packages/example-{path.parent.name}"
        return {path: name for path, name in found.items() if path.is_file()}

    def pages(self) -> dict[str, Page]:
        """Every page by its name."""
        names = self.names()
        pages = dict(self.generated)
        for path, name in names.items():
            text = self._with_links(path, name, names)
            source = path.relative_to(self.root).as_posix()
            pages[name] = Page(name, re.sub("^```output$", "```text", text, flags=re.MULTILINE), source)
        for path in sorted((self.root / "docs").glob("plots/*.svg")):
            self.files[path.relative_to(self.root / "docs").as_posix()] = path
        pages["index"].text += "".join(self._navigation(pages))
        decisions = [name for name in pages if re.match(r"decisions/\d", name)]
        pages["decisions/README"].text += _toctree("", decisions)
        return pages

    def _with_links(self, path: Path, name: str, names: Mapping[Path, str]) -> str:
        """The text of a file, its links as they are between the pages of the site."""

        def link(found: re.Match[str]) -> str:
            target = self._target(path, name, names, found[2])
            return f"{found[1]}{target}{found[3]}"

        text = _outside_of_code(path.read_text(encoding="utf-8"), lambda part: _LINK.sub(link, part))
        return _DIAGRAM.sub(self._inline, text)

    def _inline(self, found: re.Match[str]) -> str:
        """A diagram inside of the page, where it follows the light and dark mode of the theme."""
        drawing = (self.root / "docs" / found[2]).read_text(encoding="utf-8")
        return f'````{{raw}} html\n<figure class="diagram">\n{drawing}</figure>\n````'

    def _target(self, path: Path, name: str, names: Mapping[Path, str], target: str) -> str:
        place, hash_, fragment = target.partition("#")
        if not place or re.match(r"[a-z]+:", target):
            return target
        file = (path.parent / place).resolve()
        if file in names:
            return _relative(f"{names[file]}.md", name) + hash_ + fragment
        inside = file.relative_to(self.root.resolve()).as_posix()
        if file.suffix == ".svg" and inside.startswith("docs/"):
            return _relative(inside.removeprefix("docs/"), name)
        if self.address:
            return f"{self.address}/blob/main/{inside}{hash_}{fragment}"
        copy = f"files/{inside}.txt" if file.suffix in (".md", ".rst") else f"files/{inside}"
        self.files[copy] = file
        return _relative(copy, name)

    def _navigation(self, pages: Mapping[str, Page]) -> Iterator[str]:
        named = {name for patterns in SECTIONS.values() for name in patterns if "*" not in name}
        for section, patterns in SECTIONS.items():
            yield _toctree(
                section, [name for pattern in patterns for name in _matching(pattern, pages, named)]
            )


def _matching(pattern: str, pages: Mapping[str, Page], named: set[str]) -> list[str]:
    if "*" not in pattern:
        return [pattern] if pattern in pages else []
    folder = pattern.removesuffix("*")
    return [
        name
        for name in sorted(pages)
        if name.startswith(folder) and "/" not in name.removeprefix(folder) and name not in {*named, "index"}
    ]


def _toctree(caption: str, names: list[str]) -> str:
    lines = ["", "", "```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), ""]
    return "\n".join([*lines, *(f"/{name}" for name in names), "```", ""])


def _relative(target: str, page: str) -> str:
    return os.path.relpath(target, os.path.dirname(page) or ".").replace(os.sep, "/")


def _outside_of_code(text: str, change: Callable[[str], str]) -> str:
    """The text, with everything but its fenced blocks changed."""
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


def links_of(text: str) -> list[str]:
    """The targets of the links of a Markdown text."""
    return [found[2] for found in _LINK.finditer(_FENCE.sub("", text))]


def headings_of(text: str) -> list[tuple[int, str]]:
    """The headings of a Markdown text: level and words."""
    return [(len(found[1]), found[2]) for found in _HEADING.finditer(_FENCE.sub("", text))]
