"""The pytest plugin: fixtures, without any effect on tests that do not use them.

pytest loads it in every run where it is installed, so it imports the bus only when a fixture is used. A
fixture returns a bus that is not started, because only the test knows its event loop. Around a coroutine
function the plugin starts and closes the bus inside the call of the test, under any runner (pytest-asyncio,
anyio).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bus_core import Bus, SyncBus
    from promenade_bus_contracts.boundary_settings import Boundaries
    from promenade_bus_testing.buses import Source
    from promenade_bus_testing.failures import Failures
    from promenade_bus_testing.guards import Guard
    from promenade_bus_testing.observation import Observation
    from promenade_bus_testing.recorder import Recorder, SyncRecorder
    from promenade_bus_testing.virtual_clock import VirtualClock

pytest_plugins = ("promenade_bus_testing.contract_plugin",)

_MARKER = (
    "promenade(allow_failures=False, **settings): for the fixtures 'bus' and 'sync_bus': let the test pass "
    "even if handlers failed, and set keys of the section 'bus' of the configuration"
)
_GUARDS = pytest.StashKey[list["Guard"]]()


_BOUNDARIES = "promenade_bus_boundaries"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declares the ini option with the file of the boundaries."""
    parser.addini(_BOUNDARIES, "the file with the boundaries of contexts", default="pyproject.toml")


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker."""
    config.addinivalue_line("markers", _MARKER)


# --- fixtures ---------------------------------------------------------------------------------------------


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock that moves only when the test advances it. A bus of the same test uses it."""
    from promenade_bus_testing.virtual_clock import VirtualClock

    return VirtualClock()


@pytest.fixture
def context_boundaries(request: pytest.FixtureRequest) -> Boundaries:
    """The boundaries of the contexts. It fails with every import that crosses one.

    They are in ``[tool.promenade-bus.boundaries]`` of the project's ``pyproject.toml``, or in the file that
    the ini option ``promenade_bus_boundaries`` names.
    """
    try:
        from promenade_bus_contracts.boundaries import violations
        from promenade_bus_contracts.boundary_settings import read_boundaries
    except ModuleNotFoundError:
        pytest.fail("context_boundaries needs: pip install promenade-bus-contracts", pytrace=False)
    file = request.config.rootpath / str(request.config.getini(_BOUNDARIES))
    found = violations(file)
    if found:
        listed = "".join(f"\n  {violation}" for violation in found)
        pytest.fail(f"imports cross the boundaries of contexts, see {file}:{listed}", pytrace=False)
    return read_boundaries(file)


@pytest.fixture
def bus_config() -> Source | None:
    """The configuration of ``bus`` and ``sync_bus``: a path, or a mapping. Override it in a conftest.py."""
    return None


@pytest.fixture
def bus_plugins() -> list[object]:
    """Plugins for ``bus`` and ``sync_bus`` that are not installed. Override it in a conftest.py."""
    return []


@pytest.fixture
def bus(
    request: pytest.FixtureRequest, bus_config: Source | None, bus_plugins: list[object]
) -> Iterator[Bus]:
    """A bus for this test only. In an async test it is started; in another one use ``async with bus:``."""
    from promenade_bus_testing.guards import BusGuard

    clock = request.getfixturevalue("virtual_clock") if "virtual_clock" in request.fixturenames else None
    guard = BusGuard(bus_config, bus_plugins, clock, *_marked(request))
    request.node.stash.setdefault(_GUARDS, []).append(guard)
    yield guard.bus
    guard.release()


@pytest.fixture
def sync_bus(
    request: pytest.FixtureRequest, bus_config: Source | None, bus_plugins: list[object]
) -> Iterator[SyncBus]:
    """A started bus for this test only, for threads and synchronous frameworks."""
    from promenade_bus_testing.guards import SyncBusGuard

    guard = SyncBusGuard(bus_config, bus_plugins, *_marked(request))
    request.node.stash.setdefault(_GUARDS, []).append(guard)
    guard.bus.start()
    yield guard.bus
    guard.release()


@pytest.fixture
def recorder(bus: Bus) -> Recorder:
    """The recorder of ``bus``."""
    from promenade_bus_testing.recorder import recorder_of

    return recorder_of(bus)


@pytest.fixture
def sync_recorder(sync_bus: SyncBus) -> SyncRecorder:
    """The recorder of ``sync_bus``."""
    from promenade_bus_testing.recorder import sync_recorder_of

    return sync_recorder_of(sync_bus)


@pytest.fixture
def bus_failures(request: pytest.FixtureRequest) -> Failures:
    """The failures on the bus of this test, and the test's expectations."""
    return _observation(request).failures


@pytest.fixture
def fail_next(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``fail_next(subscription, error, times=1)``: the next attempts of a subscription fail."""
    return _observation(request).fail_next


def _observation(request: pytest.FixtureRequest) -> Observation:
    if "sync_bus" in request.fixturenames or "sync_recorder" in request.fixturenames:
        observation: Observation = request.getfixturevalue("sync_recorder")
    else:
        observation = request.getfixturevalue("recorder")
    return observation


def _marked(request: pytest.FixtureRequest) -> tuple[dict[str, Any], bool]:
    """Returns settings and ``allow_failures``; the marker closest to the test wins."""
    settings: dict[str, Any] = {}
    for marker in reversed([*request.node.iter_markers("promenade")]):
        if marker.args:
            raise pytest.UsageError(f"the marker promenade takes only keyword arguments, got {marker.args!r}")
        settings |= marker.kwargs
    allow_failures = bool(settings.pop("allow_failures", False))
    return settings, allow_failures


# --- around the test --------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Starts and closes the buses of an async test, and fails a test with unexpected failures."""
    guards = item.stash.get(_GUARDS, None)
    if not guards or not isinstance(item, pytest.Function):
        return (yield)
    test = item.obj
    if inspect.iscoroutinefunction(test):
        item.obj = _started_around(test, guards)
    try:
        result = yield
    except BaseException:
        for guard in guards:
            item.add_report_section("call", "promenade bus", guard.story())
        raise
    finally:
        item.obj = test
    for guard in guards:
        guard.finish()
    return result


def _started_around(test: Callable[..., Any], guards: list[Guard]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def started(**arguments: Any) -> Any:
        for guard in guards:
            await guard.begin()
        try:
            result = await test(**arguments)
        except BaseException:
            for guard in guards:
                with contextlib.suppress(Exception):  # the exception of the test matters more
                    await guard.end(failed=True)
            raise
        for guard in guards:
            await guard.end()
        return result

    return started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Forgets the buses of a test, so that a plugin may run it again."""
    try:
        return (yield)
    finally:
        if item.stash.get(_GUARDS, None) is not None:
            del item.stash[_GUARDS]
