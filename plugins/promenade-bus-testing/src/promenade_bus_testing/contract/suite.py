"""``AdapterContract``: every contract test, and the parts that an adapter's author defines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from bus_core import Features
from promenade_bus_testing.contract.administration import AdministrationTests
from promenade_bus_testing.contract.closing import ClosingTests
from promenade_bus_testing.contract.dead_letters import DeadLetterTests
from promenade_bus_testing.contract.groups import GroupTests
from promenade_bus_testing.contract.load import LoadTests
from promenade_bus_testing.contract.ordering import OrderingTests
from promenade_bus_testing.contract.outcomes import OutcomeTests
from promenade_bus_testing.contract.payloads import PayloadTests
from promenade_bus_testing.contract.places import Place
from promenade_bus_testing.contract.publishing import PublishingTests
from promenade_bus_testing.contract.resources import ResourceTests
from promenade_bus_testing.contract.subscribing import SubscribingTests
from promenade_bus_testing.contract_plugin import STRESS_OPTION

__all__ = ["AdapterContract"]


class AdapterContract(
    PublishingTests,
    SubscribingTests,
    GroupTests,
    OrderingTests,
    OutcomeTests,
    DeadLetterTests,
    AdministrationTests,
    ClosingTests,
    PayloadTests,
    LoadTests,
    ResourceTests,
):
    """The base class of an adapter's contract tests.

    Name the subclass ``Test...``, and define ``features`` and ``settings``.

    Each test opens its own buses in its own ``Place``, runs on its own event loop, and closes the buses. All
    tests may run at the same time, even in several processes.
    """

    features: ClassVar[Features]
    """The claimed features; a test compares them with the adapter's own."""

    plugins: ClassVar[Sequence[object]] = ()
    """The plugin that offers the adapter, and others that it needs. If empty, installed plugins are used."""

    deadline: ClassVar[float] = 20.0
    """Real seconds without progress after which a waiting test fails."""

    longest_test: ClassVar[float] = 120.0
    """Real seconds after which a test is stopped; ten times as many in a stress run."""

    patience: ClassVar[float] = 0.05
    """Real seconds without progress after which virtual time passes; 0 for an in-process adapter."""

    # --- to be filled in ----------------------------------------------------------------------------------

    def settings(self, place: Place) -> Mapping[str, Any]:
        """Returns keys of the section ``bus`` that select the adapter: ``{"adapter": name, name: {}}``.

        Called once for each test. All buses of the test use the result and must share the transport. Buses of
        different places must not affect each other.
        """
        raise NotImplementedError(f"{type(self).__name__} must define settings(place) to select the adapter")

    async def dispose(self, place: Place) -> None:
        """Removes data that a test left in the transport on purpose; called after each test."""

    def left_behind(self, place: Place) -> Iterable[str]:
        """Names further things that closed buses must not leave behind.

        Tasks, threads, descriptors and connections are checked anyway. Called before a bus is opened and
        after it was closed.
        """
        return ()

    async def inject(self, place: Place, topic: str, body: bytes) -> None:
        """Optional: stores raw bytes on a topic, as a foreign publisher could."""
        raise NotImplementedError

    async def interrupt(self, place: Place) -> None:
        """Optional: cuts every connection between the open buses and the transport, once."""
        raise NotImplementedError

    def with_lease(self, settings: Mapping[str, Any], lease: float) -> Mapping[str, Any]:
        """Optional: the same settings with leases of so many seconds, less than one."""
        raise NotImplementedError

    # --- how it works -------------------------------------------------------------------------------------

    @pytest.fixture
    def contract_place(self, request: pytest.FixtureRequest, tmp_path: Path, contract_suite: int) -> Place:
        """Returns a place for each test."""
        short = re.sub(r"[^a-z0-9]+", "-", request.node.originalname.removeprefix("test_").lower())[:20]
        return Place(f"{short.strip('-')}-{uuid4().hex[:12]}", tmp_path, self._suites(request.config) > 0)

    @pytest.fixture
    def contract_suite(self) -> int:
        """Returns the number of the run within a stress run."""
        return 0

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Repeats each test in a stress run."""
        suites = self._suites(metafunc.config)
        if suites and "contract_suite" in metafunc.fixturenames:
            metafunc.parametrize("contract_suite", range(suites), ids="suite{}".format)

    @staticmethod
    def _suites(config: pytest.Config) -> int:
        return int(config.getoption(STRESS_OPTION, 0) or 0)

    @classmethod
    def has_hook(cls, name: str) -> bool:
        """Returns True if an optional hook is overridden."""
        return getattr(cls, name) is not getattr(AdapterContract, name)

    @property
    def patience_in_effect(self) -> float:
        """The real seconds without progress before virtual time passes."""
        return 0.0 if self.features.in_process else self.patience
