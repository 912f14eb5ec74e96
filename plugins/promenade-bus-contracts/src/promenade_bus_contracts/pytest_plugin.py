"""The pytest plugin: the fixture ``context_boundaries``. It imports nothing until the fixture is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from promenade_bus_contracts.boundary_settings import Boundaries

__all__ = ["context_boundaries", "pytest_addoption"]

_OPTION = "promenade_bus_boundaries"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declares the file with the section ``boundaries``."""
    parser.addini(
        _OPTION, "the file with the section 'boundaries' of Promenade Bus", default="pyproject.toml"
    )


@pytest.fixture
def context_boundaries(request: pytest.FixtureRequest) -> Boundaries:
    """The boundaries of the contexts. It fails with every import that crosses one.

    The boundaries are in ``[tool.promenade-bus.boundaries]`` of the project's ``pyproject.toml``, or in the
    file that the ini option ``promenade_bus_boundaries`` names.
    """
    from promenade_bus_contracts.boundaries import violations
    from promenade_bus_contracts.boundary_settings import read_boundaries

    file = request.config.rootpath / Path(str(request.config.getini(_OPTION)))
    found = violations(file)
    if found:
        listed = "".join(f"\n  {violation}" for violation in found)
        pytest.fail(f"imports cross the boundaries of contexts, see {file}:{listed}", pytrace=False)
    return read_boundaries(file)
