"""A directory of distributions that are installed for one test; discovery finds these alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import importlib_metadata
import pytest

from support.distributions import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.setattr(sys, "path", [str(directory), *sys.path])
    found = importlib_metadata.distributions
    monkeypatch.setattr(importlib_metadata, "distributions", lambda **_: found(path=[str(directory)]))
    site = Site(directory)
    yield site
    site.forget_modules()
