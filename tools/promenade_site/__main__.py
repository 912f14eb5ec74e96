"""``python -m promenade_site``: the steps of ``make docs``, ``make diagrams`` and ``make api``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from promenade_site.api import api_pages
from promenade_site.checking import broken_links
from promenade_site.diagrams import DIAGRAMS
from promenade_site.pages import Site
from promenade_site.reference import reference_pages
from promenade_site.snapshot import snapshot

ROOT = Path(__file__).resolve().parents[2]
STAGED = ROOT / "build" / "site-pages"
BUILT = ROOT / "build" / "site"


def stage() -> int:
    """Writes every page, and the files that pages show; what did not change keeps its time."""
    site = Site(ROOT, {**api_pages(), **reference_pages()})
    wanted = {STAGED / f"{page.name}{page.suffix}": page.text.encode() for page in site.pages().values()}
    wanted |= {STAGED / name: path.read_bytes() for name, path in site.files.items()}
    for path in [*STAGED.rglob("*")]:
        if path.is_file() and path not in wanted:
            path.unlink()
    for path, content in wanted.items():
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return 0


def check() -> int:
    """Reports broken links of the built site."""
    broken = broken_links(BUILT)
    for link in broken:
        print(f"broken link: {link}", file=sys.stderr)
    if not broken:
        print(f"==> the site is complete: {BUILT / 'index.html'}")
    return bool(broken)


def draw() -> int:
    """Draws the diagrams of docs/diagrams again."""
    for name, drawing in DIAGRAMS.items():
        (ROOT / "docs" / "diagrams" / f"{name}.svg").write_text(drawing(), encoding="utf-8")
    return 0


def api() -> int:
    """Writes the public API down again."""
    (ROOT / "tests" / "project" / "public_api.txt").write_text(snapshot(), encoding="utf-8")
    return 0


STEPS: Mapping[str, Callable[[], int]] = {"stage": stage, "check": check, "draw": draw, "api": api}


def main(arguments: Sequence[str]) -> int:
    """Runs the steps in order, and stops at one that fails."""
    if not arguments or not STEPS.keys() >= {*arguments}:
        print(f"usage: python -m promenade_site {'|'.join(STEPS)}...", file=sys.stderr)
        return 2
    return next((status for status in (STEPS[name]() for name in arguments) if status), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
