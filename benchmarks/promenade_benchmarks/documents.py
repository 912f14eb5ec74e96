"""Files of a run: JSON, Markdown and plots; and the page of the documentation that shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "show", "write"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
PLOTS = ROOT / "docs" / "plots"


def write(folder: Path, figures: Mapping[str, Any], markdown: str, plots: Mapping[str, str]) -> None:
    """Writes ``figures.json``, ``table.md`` and a file for each plot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(markdown, encoding="utf-8")
    for name, svg in plots.items():
        (folder / name).write_text(svg, encoding="utf-8")


def show(
    command: str, markdown: str, plots: Mapping[str, str], page: Path = PAGE, images: Path = PLOTS
) -> None:
    """Replaces what the page shows of this command, between its two marks; the plots go beside it."""
    prefix = command.replace(" ", "-").removeprefix("make-")
    images.mkdir(exist_ok=True)
    for name, svg in plots.items():
        (images / f"{prefix}-{name}").write_text(svg, encoding="utf-8")
    links = "\n".join(f"![{name.removesuffix('.svg')}]({images.name}/{prefix}-{name})" for name in plots)
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- begin: {command} -->\n")
    _, end, after = rest.partition(f"<!-- end: {command} -->")
    if not begin or not end:
        raise LookupError(f"{page} has no place for {command!r}: it lacks the marks 'begin' and 'end'")
    page.write_text(f"{before}{begin}\n{links}\n\n{markdown}\n{end}{after}", encoding="utf-8")
