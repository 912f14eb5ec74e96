"""Fixtures for the tests of the example."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from crm.shared import sources


@pytest.fixture
def short_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets ``shared`` publish the languages with two letters and a few zones only, where more is no use."""
    languages = [language for language in sources.languages() if language.alpha_2]

    def few_zones() -> Iterator[Any]:
        return islice(every_zone(), 100)

    every_zone = sources.timezones
    monkeypatch.setattr(sources, "languages", lambda: languages)
    monkeypatch.setattr(sources, "timezones", few_zones)
