"""Quick runs of the benchmarks: they are run, and how fast anything is matters to no test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def check_quick_run(
    script: str, *arguments: str, output: Path, figures: set[str], may_be_zero: Collection[str] = ()
) -> dict[str, Any]:
    """The output of a quick run: every figure as a positive number; it writes the same to ``output``."""
    command = [
        sys.executable,
        ROOT / "benchmarks" / script,
        "--quick",
        *arguments,
        "--json",
        "--output",
        output,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    found = document["figures"]
    assert set(found) >= figures
    wrong = {name for name, figure in found.items() if not (figure["value"] > 0 < figure["median"])}
    assert {name for name in wrong if name not in may_be_zero or found[name]["value"] < 0} == set()
    assert json.loads((output / "figures.json").read_text()) == document
    return document
