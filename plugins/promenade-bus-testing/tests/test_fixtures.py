"""The fixtures: their work for a test, and their messages about failures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., pytest.RunResult]

AUTO = ("-o", "asyncio_mode=auto")


def test_the_message_shows_the_flow(run: Run) -> None:
    """A test with an unexpected failure shows each step of it: publish, attempts with place, dead letter."""
    result = run(
        """
        async def test_it(bus):
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered("x@refused.example"))
        """,
        *AUTO,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*UnseenFailures: 3 attempts failed that the test does not expect; if it does, declare it with*",
            "E*accounts.user.registered * UserRegistered(*",
            "E*+0.0* s  published",
            "E*welcome-mail: attempt 1 failed with ConnectionError: the mail server refuses (test_it.py:*); "
            "retry in 0 s",
            "E*welcome-mail: attempt 2 failed *; retry in 0 s",
            "E*welcome-mail: attempt 3 failed *; dead letter: retries exhausted after 3 attempts",
        ],
        consecutive=False,
    )


def test_the_message_names_the_code_that_took_too_long(run: Run) -> None:
    """An attempt over its time limit has the place of the handler, also in a thread."""
    result = run(
        """
        import asyncio

        async def test_it(bus):
            @bus.subscribe(MAIL_SENT, name="hangs", timeout=0.01)
            async def hangs(event):
                await asyncio.Event().wait()

            @bus.subscribe(MAIL_SENT, name="late", timeout=1e-9)
            def late(event): ...

            await bus.publish(MAIL_SENT, MailSent(aggregate_id=uuid4(), to="ada"))
        """,
        *AUTO,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*hangs: attempt 1 failed with HandlerTimeout*(test_it.py:*); *"])
    result.stdout.fnmatch_lines(["E*late: attempt 1 failed with HandlerTimeout*(test_it.py:*); *"])


def test_the_flow_begins_where_the_event_came_from(run: Run) -> None:
    """When a handler published the event that failed, the flow of the event that it handled comes first."""
    result = run(
        """
        async def test_it(bus, fail_next, bus_failures):
            greeter(bus)

            @bus.subscribe(MAIL_SENT, name="broken")
            async def broken(event):
                raise KeyError("nobody")

            await bus.publish(USER_REGISTERED, registered())
        """,
        *AUTO,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*accounts.user.registered * UserRegistered(*",
            "E*welcome-mail: attempt 1 succeeded",
            "E*mails.mail.sent * MailSent(*",
            "E*published by a handler of *",
            "E*broken: attempt 1 failed with KeyError: 'nobody' (test_it.py:*",
        ]
    )


def test_expected_failures_pass(run: Run) -> None:
    """A test says which failures it expects, before or after they happen, or that it allows any."""
    result = run(
        """
        REFUSED = ("x@refused.example",)

        async def test_before(bus, bus_failures):
            bus_failures.expect(ConnectionError, subscription="welcome-mail", match="refuses", times=3)
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered("x@refused.example"))

        async def test_after(bus, bus_failures):
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered("x@refused.example"))
            await bus.drain()
            assert [failed.failure.attempt for failed in bus_failures.all] == [1, 2, 3]
            bus_failures.expect(ConnectionError, topic="accounts.#")
            assert bus_failures.unexpected == []

        @pytest.mark.promenade(allow_failures=True)
        async def test_allowed(bus):
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered("x@refused.example"))

        async def test_postponed(bus):
            from bus_core import Postpone

            @bus.subscribe(USER_REGISTERED, name="later")
            async def later(event, delivery):
                if not delivery.redelivered:
                    raise Postpone(after=0)

            await bus.publish(USER_REGISTERED, registered())
        """,
        *AUTO,
    )
    result.assert_outcomes(passed=4)


def test_what_is_expected_has_to_happen(run: Run) -> None:
    """An expectation that does not come true fails the test, and so does a failure that does not fit it."""
    result = run(
        """
        async def test_none(bus, bus_failures):
            bus_failures.expect(ConnectionError, subscription="welcome-mail")

        async def test_too_few(bus, bus_failures):
            bus_failures.expect(ConnectionError, times=4)
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered("x@refused.example"))

        async def test_too_many(bus, bus_failures):
            bus_failures.expect(ConnectionError, times=1)
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered("x@refused.example"))

        async def test_another(bus, bus_failures):
            bus_failures.expect((KeyError, ValueError), topic=MAIL_SENT, match="x")
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered("x@refused.example"))
        """,
        *AUTO,
    )
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "E*expected an attempt to fail with ConnectionError of welcome-mail, none did",
            "E*expected 4 attempts to fail with ConnectionError, 3 did",
            "E*2 attempts failed that the test does not expect*",
            "E*3 attempts failed that the test does not expect*",
            "E*expected an attempt to fail with KeyError or ValueError matching 'x' on mails.mail.sent*",
        ]
    )


def test_fail_next(run: Run) -> None:
    """``fail_next`` lets the next attempts fail in place of the handler, and these failures are expected."""
    result = run(
        """
        async def test_it(bus, fail_next, recorder):
            greeter(bus)
            fail_next("welcome-mail", ConnectionError("down"), times=2)
            await bus.publish(USER_REGISTERED, registered())
            await bus.drain()
            assert [failed.subscription for failed in recorder.failures.all] == ["welcome-mail"] * 2
            assert len(recorder.handled(USER_REGISTERED, by="welcome-mail")) == 1

        async def test_with_a_class(bus, fail_next):
            subscription = bus.subscribe(USER_REGISTERED, print, name="print")
            fail_next(subscription, PermanentError)
            await bus.publish(USER_REGISTERED, registered())
            await bus.drain()
            assert len(await bus.dead_letters.list()) == 1

        async def test_unused(bus, fail_next):
            greeter(bus)
            fail_next("welcome-male", ConnectionError)

        async def test_no_error(bus, fail_next):
            fail_next("welcome-mail", "no error")
        """,
        *AUTO,
    )
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "E*fail_next: 1 of the failures ordered for 'welcome-male' did not happen, because it made "
            "no further attempt (subscriptions: welcome-mail, archive)",
            "E*TypeError: fail_next takes an exception or a class of exceptions, got 'no error'",
        ]
    )


def test_virtual_clock(run: Run) -> None:
    """With ``virtual_clock`` the bus is on it: retries wait exactly their time, and nobody waits for them."""
    result = run(
        """
        async def test_it(bus, virtual_clock, recorder, bus_failures):
            bus_failures.expect(ConnectionError)
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered("x@refused.example"))
            await virtual_clock.run(bus.drain())
            assert [failed.at for failed in bus_failures.all] == pytest.approx([0, 0.1, 0.3])

        @pytest.mark.promenade(retry={"policy": "fixed", "attempts": 2, "delay": "1h"})
        async def test_end(bus, virtual_clock, fail_next, recorder):
            "What waits for its time is waited for at the end, on the clock of the test."
            greeter(bus)
            fail_next("welcome-mail", ConnectionError)
            await bus.publish(USER_REGISTERED, registered())
            await virtual_clock.advance(3599)
            assert recorder.handled() == []
            await virtual_clock.advance(1)
            assert len(recorder.handled()) == 2

        async def test_threads(bus, virtual_clock, recorder):
            "The clock waits for handlers that run in threads."
            import time
            bus.subscribe(USER_REGISTERED, lambda event: time.sleep(0.05), name="slow")
            await bus.publish(USER_REGISTERED, registered())
            await virtual_clock.settle()
            assert len(recorder.handled(by="slow")) == 1
        """,
        *AUTO,
    )
    result.assert_outcomes(passed=3)


def test_what_is_left_over(run: Run) -> None:
    """An event abandoned at the close of the bus fails the test."""
    result = run(
        """
        @pytest.mark.promenade(shutdown_timeout="1s", retry={"policy": "fixed", "attempts": 2, "delay": "1h"})
        async def test_it(bus, virtual_clock, fail_next):
            greeter(bus)
            fail_next("welcome-mail", ConnectionError)
            await bus.publish(USER_REGISTERED, registered())
        """,
        *AUTO,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*1 event abandoned when the bus was closed:",
            "E*welcome-mail: accounts.user.registered * was waiting for retry",
            "E*attempt 1 failed with ConnectionError (injected by the test); retry in 3600 s",
        ]
    )


def test_a_test_that_fails_shows_what_happened(run: Run) -> None:
    """The report of a test that fails by itself has the story of its bus, and nothing is waited for."""
    result = run(
        """
        async def test_it(bus):
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered())
            await bus.drain()
            assert False
        """,
        *AUTO,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*Captured promenade bus call*", "accounts.user.registered *", "*welcome-mail: attempt 1 succeeded"]
    )


def test_settings(run: Run) -> None:
    """The configuration comes from ``bus_config`` and the markers, and isolation is stronger than both."""
    result = run(
        """
        @pytest.mark.promenade(worker_pool_size=3)
        class TestClass:
            @pytest.mark.promenade(buffer_size=7)
            async def test_markers(self, bus):
                assert (bus.config.worker_pool_size, bus.config.buffer_size) == (3, 7)
                assert bus.service == "shop"

        async def test_isolation(bus, recorder):
            assert (bus.config.adapter, bus.adapter.serialize) == ("memory", True)
            bus.subscribe(USER_REGISTERED, lambda event: None, name="same")
            event = registered()
            await bus.publish(USER_REGISTERED, event)
            (arrived,) = await recorder.wait_for(USER_REGISTERED, handled=True)
            assert arrived == event and arrived is not event

        @pytest.mark.promenade(memory={"serialize": False})
        async def test_last_word(bus):
            assert not bus.adapter.serialize

        @pytest.mark.promenade(True)
        async def test_arguments(bus):
            pass
        """,
        *AUTO,
        conftest="""
        import pytest

        @pytest.fixture
        def bus_config():
            return {
                "app": {"name": "shop"},
                "bus": {"adapter": "redis", "fallback": "memory", "memory": {"serialize": False}},
            }
        """,
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*the marker promenade takes only keyword arguments, got (True,)"])


def test_sync(run: Run) -> None:
    """For tests without an event loop there is the same, as plain calls."""
    result = run(
        """
        def test_it(sync_bus, sync_recorder, fail_next):
            @sync_bus.subscribe(USER_REGISTERED, name="mail")
            def mail(event):
                sync_bus.publish(MAIL_SENT, MailSent(aggregate_id=event.aggregate_id, to=event.email))

            fail_next("mail", ConnectionError)
            sync_bus.publish(USER_REGISTERED, registered())
            (sent,) = sync_recorder.wait_for(MAIL_SENT)
            assert sent.to == sync_recorder.expect(MAIL_SENT, where={"to": "ada@example.org"}).to

        def test_failed(sync_bus):
            @sync_bus.subscribe(USER_REGISTERED, name="mail")
            def mail(event):
                raise ConnectionError("down")

            sync_bus.publish(USER_REGISTERED, registered())

        def test_late(sync_bus, sync_recorder):
            sync_recorder.wait_for(MAIL_SENT, 2, timeout=0.01)
        """
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "E*3 attempts failed that the test does not expect*",
            "E*mail: attempt 1 failed with ConnectionError: down (test_it.py:*); retry in 0 s",
            "E*expected 2 events published to mails.mail.sent within 0.01 s, found none",
        ]
    )


def test_plain_asyncio(run: Run) -> None:
    """A test that runs its own loop enters the bus itself, with the fixture or without any."""
    result = run(
        """
        from promenade_bus_testing import isolated_bus, recording, UnseenFailures

        def test_fixture(bus, recorder):
            async def main():
                async with bus:
                    greeter(bus)
                    await bus.publish(USER_REGISTERED, registered())
            asyncio.run(main())
            recorder.expect(MAIL_SENT)

        def test_fixture_failed(bus):
            async def main():
                async with bus:
                    greeter(bus)
                    await bus.publish(USER_REGISTERED, registered("x@refused.example"))
            asyncio.run(main())

        def test_no_fixture():
            async def main():
                async with isolated_bus() as bus, recording(bus) as recorder:
                    greeter(bus)
                    await bus.publish(USER_REGISTERED, registered("x@refused.example"))
                    recorder.failures.expect(ConnectionError)
            asyncio.run(main())

        def test_no_fixture_failed():
            async def main():
                async with isolated_bus() as bus:
                    greeter(bus)
                    await bus.publish(USER_REGISTERED, registered("x@refused.example"))
            with pytest.raises(UnseenFailures, match="3 attempts failed"):
                asyncio.run(main())

        def test_left_open(bus):
            async def main():
                await bus.start()
            asyncio.run(main())
        """,
        "-p",
        "no:asyncio",
        "-p",
        "no:anyio",
    )
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "E*3 attempts failed that the test does not expect*",
            "E*the test left its bus open; use 'async with bus:' or 'await bus.close()'",
        ]
    )


def test_another_loop_than_asyncio(run: Run) -> None:
    """Where a test does not run on asyncio, the error says what to do."""
    result = run(
        """
        import types, sys

        class Nothing:
            def __await__(self):
                yield

        async def test_it(bus):
            pass
        """,
        "-p",
        "no:asyncio",
        conftest="""
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(pyfuncitem):
            "A runner of its own kind."
            coroutine = pyfuncitem.obj(bus=pyfuncitem.funcargs["bus"])
            coroutine.send(None)
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the fixture 'bus' needs asyncio, and this test runs on another library*"])


def test_reruns_workers_and_any_order(run: Run) -> None:
    """Under xdist and in random order each test has its own bus."""
    result = run(
        """
        @pytest.mark.parametrize("number", range(12))
        async def test_it(bus, recorder, number):
            greeter(bus)
            await bus.publish(USER_REGISTERED, registered(f"{number}@example.org"))
            await bus.drain()
            assert recorder.expect(MAIL_SENT).to == f"{number}@example.org"
        """,
        *AUTO,
        "-n",
        "2",
        "-p",
        "randomly",
    )
    result.assert_outcomes(passed=12)


def test_a_suite_without_the_bus_notices_nothing(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """Neither loading the plugin nor a run without its fixtures imports the engine, or what it needs."""
    report = tmp_path / "modules.json"
    pytester.makepyfile(
        f"""
        import json, sys

        def test_it():
            with open({str(report)!r}, "w") as file:
                json.dump(sorted(sys.modules), file)
        """
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:randomly",
            "-p",
            "no:anyio",
            "-p",
            "no:hypothesispytest",
            "-q",
        ],
        cwd=pytester.path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = set(json.loads(report.read_text()))
    ours = {name for name in loaded if name.startswith(("promenade_", "bus_core"))}
    assert ours == {
        "bus_core",
        "bus_core.on_demand",
        "promenade_bus_testing",
        "promenade_bus_testing.contract_plugin",
        "promenade_bus_testing.pytest_plugin",
    }
    assert not loaded & {"attrs", "cattrs", "yaml", "importlib_metadata"}


def test_fixtures_and_marker_are_listed(pytester: pytest.Pytester) -> None:
    """``pytest --fixtures`` and ``--markers`` explain what there is."""
    quiet = ("-p", "no:randomly", "-p", "no:asyncio", "-p", "no:hypothesispytest")
    fixtures = pytester.runpytest_inprocess("--fixtures", *quiet)
    names = ("virtual_clock", "bus_config", "bus_plugins", "bus", "sync_bus", "recorder", "sync_recorder")
    for name in (*names, "bus_failures", "fail_next"):
        fixtures.stdout.re_match_lines([rf"{name} -- .*pytest_plugin\.py"])
    markers = pytester.runpytest_inprocess("--markers", *quiet)
    markers.stdout.fnmatch_lines(["@pytest.mark.promenade(allow_failures=False, [*][*]settings): *"])
