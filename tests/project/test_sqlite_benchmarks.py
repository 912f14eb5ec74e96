"""The benchmarks of the SQLite adapter run. How fast it is depends on the machine, and matters to no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.once]

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(200)
def test_a_quick_run_yields_every_figure() -> None:
    """A quick run compares both ways of publishing, and both from end to end, in positive numbers."""
    command = [sys.executable, str(ROOT / "benchmarks/run_sqlite.py"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = {
        f"{what}, synchronous {synchronous}"
        for what in ("publish", "end to end")
        for synchronous in ("normal", "full")
    }
    assert names <= {each["name"] for each in found}
    assert all(each["ratio"] > 0 and each["bus"] > 0 and each["other"] > 0 for each in found)
