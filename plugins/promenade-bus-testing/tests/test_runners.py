"""The fixtures under each way to run an async test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

BODY = """
    greeter(bus)
    await bus.publish(USER_REGISTERED, registered())
    await bus.drain()
    assert recorder.expect(MAIL_SENT).to == "ada@example.org"
"""

BAD_BODY = """
    greeter(bus)
    await bus.publish(USER_REGISTERED, registered("x@refused.example"))
    await bus.drain()
"""

RUNNERS = {
    "asyncio strict": ("@pytest.mark.asyncio\nasync def", ["-o", "asyncio_mode=strict"]),
    "asyncio auto": ("async def", ["-o", "asyncio_mode=auto"]),
    "anyio": ("@pytest.mark.anyio\nasync def", ["-o", "asyncio_mode=strict"]),
    "anyio alone": ("@pytest.mark.anyio\nasync def", ["-p", "no:asyncio"]),
}

ON_ASYNCIO = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

runners = pytest.mark.parametrize(("define", "options"), RUNNERS.values(), ids=RUNNERS)


@runners
def test_an_async_test_finds_its_bus_started(run: Run, define: str, options: list[str]) -> None:
    """Under every runner of async tests the bus starts on its loop, and closes before it ends."""
    result = run(
        f"""
{define} test_it(bus, recorder):{BODY}

{define} test_again(bus, recorder):
    assert recorder.published() == []{BODY}

class TestClass:
    {define.replace(chr(10), chr(10) + "    ")} test_method(self, recorder, bus):
        assert bus.status == "open"
""",
        *options,
        conftest=ON_ASYNCIO,
    )
    result.assert_outcomes(passed=3)


@runners
def test_a_failed_attempt_fails_the_test(run: Run, define: str, options: list[str]) -> None:
    """Under every runner an async test does not pass when a handler failed unseen."""
    result = run(f"{define} test_it(bus):{BAD_BODY}", *options, conftest=ON_ASYNCIO)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*UnseenFailures: 3 attempts failed that the test does not expect*"])
