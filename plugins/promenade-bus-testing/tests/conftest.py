"""Runs pytest inside of pytest, as users do."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from importlib import import_module

import pytest

# Not first inside of a run inside of this one: pytester forgets what is imported there, so that every test
# would import it again, and undoes what importlib_metadata does to sys.meta_path.
import_module("promenade_bus_testing.guards")

PRELUDE = """
import asyncio
from uuid import uuid4

import pytest

from bus_core import Event, Personal, PermanentError, Topic, event


@event
class UserRegistered(Event):
    email: str


@event
class MailSent(Event):
    to: str


USER_REGISTERED = Topic("accounts.user.registered", UserRegistered)
MAIL_SENT = Topic("mails.mail.sent", MailSent)


def registered(email="ada@example.org"):
    return UserRegistered(aggregate_id=uuid4(), email=email)


def greeter(bus):
    @bus.subscribe(USER_REGISTERED, name="welcome-mail")
    async def greet(event):
        if event.email.endswith("@refused.example"):
            raise ConnectionError("the mail server refuses")
        await bus.publish(MAIL_SENT, MailSent(aggregate_id=event.aggregate_id, to=event.email))

    @bus.subscribe(MAIL_SENT, name="archive")
    async def archive(event):
        pass

"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def pytester(pytester: pytest.Pytester) -> pytest.Pytester:
    """Has a configuration of its own: pytest would look for one upwards, into what others leave there."""
    pytester.makeini("[pytest]")
    return pytester


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Runs a test file, with the events and handlers of the prelude, in this process."""

    def run(source: str, *arguments: str, conftest: str = "") -> pytest.RunResult:
        pytester.makepyfile(test_it=PRELUDE + textwrap.dedent(source))
        if conftest:
            pytester.makeconftest(textwrap.dedent(conftest))
        given = ["-p", "no:randomly", "-p", "no:hypothesispytest", "-W", "error"]
        if "no:asyncio" not in arguments:
            given += ["-o", "asyncio_default_fixture_loop_scope=function"]
        return pytester.runpytest_inprocess(*given, *arguments)

    return run
