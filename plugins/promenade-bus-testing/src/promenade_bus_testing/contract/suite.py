"""``AdapterContract``: every contract test, and what the author of an adapter fills in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from bus_core import Features
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
    ClosingTests,
    PayloadTests,
    LoadTests,
    ResourceTests,
):
    """Derive a class named ``Test...`` from it, and fill in ``features`` and ``settings``.

    Each test opens its own buses in its own ``Place``, runs on an event loop of its own, and closes what it
    opened. All of them may run at the same time, in several processes too.
    """

    features: ClassVar[Features]
    """What the adapter claims; a test compares it with what the adapter says of itself."""

    plugins: ClassVar[Sequence[object]] = ()
    """The plugin that offers the adapter, and others that it needs. Empty: take what is installed."""

    deadline: ClassVar[float] = 20.0
    """Seconds of real time without any progress after which what a test waits for is a failure."""

    longest_test: ClassVar[float] = 120.0
    """Seconds of real time after which a test is stopped; ten times as many in a stress run."""

    patience: ClassVar[float] = 0.05
    """Seconds of real time without progress after which virtual time passes. It is 0 in process."""

    # --- to be filled in ----------------------------------------------------------------------------------

    def settings(self, place: Place) -> Mapping[str, Any]:
        """Keys of the section ``bus`` that select the adapter: ``{"adapter": name, name: {its options}}``.

        It is called once for each test. All buses that a test opens get what it returned, and have to share
        the transport. Buses of different places must not notice each other.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say which adapter to use: settings(place)")

    async def dispose(self, place: Place) -> None:
        """Removes what a test left in the transport on purpose; called after each test, failed or not."""

    def left_behind(self, place: Place) -> Iterable[str]:
        """What closed buses must not leave behind beyond tasks, threads, descriptors and connections.

        Each item names one such thing. It is asked before a bus is opened and after it was closed.
        """
        return ()

    async def inject(self, place: Place, topic: str, body: bytes) -> None:
        """Optional: stores raw bytes on a topic, as a foreign publisher could do."""
        raise NotImplementedError

    async def interrupt(self, place: Place) -> None:
        """Optional: cuts every connection between the open buses and the transport, once."""
        raise NotImplementedError

    # --- how it works -------------------------------------------------------------------------------------

    @pytest.fixture
    def contract_place(self, request: pytest.FixtureRequest, tmp_path: Path, contract_suite: int) -> Place:
        """A place of its own for each test."""
        short = re.sub(r"[^a-z0-9]+", "-", request.node.originalname.removeprefix("test_").lower())[:20]
        return Place(f"{short.strip('-')}-{uuid4().hex[:12]}", tmp_path, self._suites(request.config) > 0)

    @pytest.fixture
    def contract_suite(self) -> int:
        """Which of the suites of a stress run this is."""
        return 0

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """In a stress run there are as many of each test as there are suites."""
        suites = self._suites(metafunc.config)
        if suites and "contract_suite" in metafunc.fixturenames:
            metafunc.parametrize("contract_suite", range(suites), ids="suite{}".format)

    @staticmethod
    def _suites(config: pytest.Config) -> int:
        return int(config.getoption(STRESS_OPTION, 0) or 0)

    @classmethod
    def has_hook(cls, name: str) -> bool:
        """Whether an optional hook is filled in."""
        return getattr(cls, name) is not getattr(AdapterContract, name)

    @property
    def patience_in_effect(self) -> float:
        """How long a test waits for progress before virtual time passes."""
        return 0.0 if self.features.in_process else self.patience
