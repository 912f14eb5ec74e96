"""The page about hazards and what it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chaos.postgres_scenarios import POSTGRES_SCENARIOS
from chaos.scenarios import SCENARIOS
from chaos.sqlite_scenarios import SQLITE_SCENARIOS

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "redis-hazards.md").read_text(encoding="utf-8")


def test_every_scenario_is_on_the_page() -> None:
    """Each scenario stands beside the hazard that it provokes, and the page names no others."""
    named: set[int] = set()
    for found in re.findall(r"scenarios? ((?:\d+(?:, | and )?)+)", PAGE):
        named |= {int(number) for number in re.findall(r"\d+", found)}
    assert named == {scenario.number for scenario in SCENARIOS} | {23}


def test_every_test_on_the_page_exists() -> None:
    """A test that the page names is one of the adapter's, or of the contract that it keeps."""
    tests = ROOT / "plugins" / "promenade-bus-redis" / "tests"
    pages = [*tests.glob("test_*.py"), *ROOT.glob("plugins/*/src/*/contract/*.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in pages)
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 20
    assert {name for name in named if f"def {name}(" not in source} == set()


def test_what_is_promised_is_shown() -> None:
    """Each test and scenario that the page of promises names is there; each promise names one."""
    page = (ROOT / "docs" / "reference" / "promises.md").read_text(encoding="utf-8")
    folders = [ROOT / "tests", *ROOT.glob("plugins/*/tests"), *ROOT.glob("plugins/*/src/*/contract")]
    source = "".join(path.read_text(encoding="utf-8") for each in folders for path in each.rglob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert {name for name in named if f"def {name}(" not in source} == set()
    numbers = {
        int(number)
        for found in re.findall(r"scenarios? ([\d, and]+)", page)
        for number in re.findall(r"\d+", found)
    }
    every = (*SCENARIOS, *SQLITE_SCENARIOS, *POSTGRES_SCENARIOS)
    assert numbers <= {scenario.number for scenario in every} | {23}
    tables = re.findall(r"^\|(.*)\|\n\|[-|]+\|\n((?:\|.*\|\n)+)", page, re.MULTILINE)
    proven = [(head, rows) for head, rows in tables if "proven by" in head]
    assert len(proven) > 1
    for head, rows in proven:
        at = [cell.strip() for cell in head.split("|")].index("proven by")
        for row in rows.splitlines():
            shown_by = row[1:].split("|")[at]
            assert "test_" in shown_by or "scenario" in shown_by, row
