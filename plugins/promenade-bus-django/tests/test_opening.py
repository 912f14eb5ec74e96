"""The processes in which the bus is opened, its handlers, and its end."""

from __future__ import annotations

import atexit
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Semaphore
from types import FunctionType
from typing import Any
from uuid import uuid4

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from bus_core import AdapterError, ConfigError, InvalidHandler, SyncBus
from django_support import MEMORY
from django_support.shop.events import PLACED, Placed
from django_support.shop.models import Receipt
from promenade_bus_django import DjangoBus, bus, opening, processes
from promenade_bus_django.opening import Opener
from promenade_bus_django.processes import Role, role_of_process
from promenade_bus_django.project_bus import DatabaseUnreachable
from promenade_bus_django.worker import application


def placed(number: int = 0) -> Placed:
    return Placed(aggregate_id=uuid4(), number=number)


# --- which process is which -------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("argv", "environ", "role"),
    [
        (["manage.py", "runserver"], {"RUN_MAIN": "true"}, Role.SERVER),
        (["manage.py", "runserver", "0.0.0.0:80", "--noreload"], {}, Role.SERVER),
        (["manage.py", "runserver"], {}, Role.OTHER),
        (["manage.py", "migrate"], {}, Role.OTHER),
        (["manage.py", "shell"], {"RUN_MAIN": "true"}, Role.OTHER),
        (["manage.py", "promenade_bus", "run"], {}, Role.OTHER),
        (["manage.py"], {}, Role.OTHER),
        (["/venv/bin/uvicorn", "project.asgi"], {}, Role.SERVER),
        (["/venv/lib/python/site-packages/uvicorn/__main__.py", "project.asgi"], {}, Role.SERVER),
        (["/venv/bin/gunicorn", "project.wsgi"], {}, Role.PRELOADING),
        (["/venv/bin/pytest"], {}, Role.OTHER),
        ([], {}, Role.OTHER),
    ],
)
def test_only_what_serves_requests_is_a_server(
    argv: Sequence[str], environ: Mapping[str, str], role: Role
) -> None:
    """The child of runserver, and servers known by name; of gunicorn, the master loads it to fork."""
    assert role_of_process(argv, environ) is role


@pytest.mark.once
def test_a_worker_of_gunicorn_is_a_server() -> None:
    """It loads the application in a method of its worker class."""
    code = compile("def load(call): return call()", "base.py", "exec").co_consts[0]
    load = FunctionType(code, {"__name__": "gunicorn.workers.base"})
    assert load(lambda: role_of_process(["gunicorn", "project.wsgi"], {})) is Role.SERVER


@pytest.mark.once
def test_the_pages_name_the_servers_and_list_the_app_last() -> None:
    """An app that is listed after it would not be ready when the first handler runs."""
    pages = Path(__file__).resolve().parents[3] / "docs" / "how-to"
    for name in ("use-with-django.md", "use-the-outbox-with-django.md"):
        [listed] = re.findall(r"^INSTALLED_APPS = \[(.*)\]$", (pages / name).read_text("utf-8"), re.MULTILINE)
        assert listed.split(", ")[-1] == '"promenade_bus_django"'
    text = (pages / "use-with-django.md").read_text("utf-8")
    [named] = re.findall(r"The app recognises (.*?), by the name of the program", text, re.DOTALL)
    for server in (*processes._SERVERS, "manage.py runserver"):
        assert f"`{server}`" in named


# --- opening ----------------------------------------------------------------------------------------------


def test_the_first_use_opens_the_bus(shop: DjangoBus) -> None:
    """Nothing is opened before; afterwards it is the same bus, and a closed one is opened anew."""
    got: list[int] = []

    @shop.subscribe(PLACED, name="looking", concurrency=1)
    def look(event: Placed) -> None:
        got.append(event.number)

    assert "not open" in repr(shop)
    assert shop.close() is None
    shop.publish(PLACED, placed(1))
    opened = shop.open()
    assert "<DjangoBus, open in process" in repr(shop)
    shop.drain(5)
    report = shop.close()
    assert report is not None
    assert report.completed
    shop.publish(PLACED, placed(2))
    shop.drain(5)
    assert shop.open() is not opened
    assert got == [1, 2]


def test_a_late_handler_is_attached_at_once(shop: DjangoBus) -> None:
    """A handler that is declared while the bus is open takes part; one that cannot work is refused."""
    got: list[int] = []
    shop.open()
    shop.subscribe(PLACED, lambda event: got.append(event.number), name="late")
    with pytest.raises(InvalidHandler, match="has no required argument"):
        shop.subscribe(PLACED, lambda: None, name="useless")  # type: ignore[misc, arg-type]
    shop.publish(PLACED, placed(1))
    shop.drain(5)
    assert got == [1]


def test_what_handlers_publish_while_the_bus_closes_is_handled(shop: DjangoBus) -> None:
    """It goes to the bus that is closing, and not to a new one."""
    got: list[int] = []

    @shop.subscribe(PLACED, name="again")
    def again(event: Placed) -> None:
        got.append(event.number)
        if event.number < 20:
            shop.publish(PLACED, placed(event.number + 1))

    shop.publish(PLACED, placed(1))
    report = shop.close()
    assert report is not None
    assert report.completed
    assert got == [*range(1, 21)]


def names(opened: SyncBus) -> list[str]:
    return [subscription.name for subscription in opened.bus.subscriptions]


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    ("role", "setting", "attached"),
    [
        (Role.SERVER, "worker", []),
        (Role.SERVER, "servers", ["looking"]),
        (Role.OTHER, "servers", []),
    ],
)
def test_handlers_run_where_the_settings_say(
    shop: DjangoBus, role: Role, setting: str, attached: list[str]
) -> None:
    """With an adapter that processes share, in the worker; in servers if asked; never in other commands."""
    shop.subscribe(PLACED, lambda event: None, name="looking")
    with override_settings(PROMENADE_BUS_HANDLERS=setting):
        shop.serve(role)
        assert names(shop.open()) == attached
    assert names(shop.for_worker()) == ["looking"]


def test_a_server_opens_the_bus_before_the_first_request(
    shop: DjangoBus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of the adapter that is away is logged, and tried again; a wrong configuration is raised."""
    wrong = override_settings(PROMENADE_BUS={"bus": {"adapter": "memory", "bufer_size": 1}})
    with wrong, pytest.raises(ConfigError, match="did you mean 'buffer_size'"):
        shop.serve(Role.SERVER)
    start = SyncBus.start

    def away(self: SyncBus) -> None:
        raise AdapterError("the server cannot be reached")

    monkeypatch.setattr(SyncBus, "start", away)
    shop.serve(Role.SERVER)
    assert "not open" in repr(shop)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "not be opened, and is tried again until it is open: the server cannot" in record.getMessage()
    monkeypatch.setattr(SyncBus, "start", start)
    shop.serve(Role.SERVER)
    assert shop.health().status == "healthy"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def opener(shop: DjangoBus, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Exception], Opener]]:
    """Serves with a bus whose ``start`` raises an error, and gives the thread that tries again."""
    monkeypatch.setattr(opening, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(opening, "LONGEST_PAUSE", 0.01)

    def serve(later: Exception) -> Opener:
        errors: list[Exception] = [AdapterError("the server is away")]

        def away(self: SyncBus) -> None:
            raise errors.pop() if errors else later

        monkeypatch.setattr(SyncBus, "start", away)
        shop.serve(Role.SERVER)
        made = shop._opener
        assert made is not None
        return made

    yield serve
    shop.close()


@pytest.mark.parametrize("error", [AdapterError("still away"), DatabaseUnreachable("still away")])
def test_a_server_opens_the_bus_when_its_broker_is_back(
    shop: DjangoBus,
    opener: Callable[[Exception], Opener],
    error: Exception,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has to publish for that: handlers and the relay of the outbox would wait for ever."""
    start = SyncBus.start
    attempts = Semaphore(0)
    thread = opener(error)
    monkeypatch.setattr(SyncBus, "start", failing(error, attempts))
    assert attempts.acquire(timeout=10)
    assert attempts.acquire(timeout=10)
    monkeypatch.setattr(SyncBus, "start", start)
    until(lambda: not thread.is_alive)
    assert "<DjangoBus, open" in repr(shop)
    assert [record.getMessage() for record in caplog.records if record.name == "promenade.django"][1:] == [
        "the bus is open: what it needs can be reached again"
    ]


def failing(error: Exception, attempts: Semaphore) -> Callable[[SyncBus], None]:
    def start(self: SyncBus) -> None:
        attempts.release()
        raise error

    return start


def test_a_bus_that_was_closed_is_not_tried_again(
    shop: DjangoBus, opener: Callable[[Exception], Opener], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``close`` ends the attempts, and so does a bus that is open because it was used."""
    start = SyncBus.start
    thread = opener(AdapterError("still away"))
    shop.close()
    until(lambda: not thread.is_alive)
    assert "not open" in repr(shop)
    monkeypatch.setattr(opening, "FIRST_PAUSE", 60)
    thread = opener(AdapterError("still away"))
    monkeypatch.setattr(SyncBus, "start", start)
    shop.open()
    until(lambda: not thread.is_alive)


@pytest.mark.once
def test_a_child_of_a_fork_does_not_stop_the_attempts_of_its_parent(
    shop: DjangoBus, opener: Callable[[Exception], Opener]
) -> None:
    """The thread exists in the parent only."""
    thread = opener(AdapterError("still away"))
    shop._after_fork()
    shop.close()
    assert thread.is_alive
    thread.stop()
    until(lambda: not thread.is_alive)


def test_another_error_ends_the_attempts(
    opener: Callable[[Exception], Opener], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its class and place, without its text."""
    thread = opener(LookupError("secret"))
    until(lambda: not thread.is_alive)
    [_, last] = [record for record in caplog.records if record.name == "promenade.django"]
    assert "is tried again when it is used: LookupError (" in last.getMessage()
    assert "test_opening.py:" in last.getMessage()
    assert "secret" not in caplog.text


def test_a_preloading_server_checks_the_configuration(shop: DjangoBus) -> None:
    """Its workers could not: an error in a fork ends nothing."""
    wrong = override_settings(PROMENADE_BUS={"bus": {"adapter": "memory", "bufer_size": 1}})
    with wrong, pytest.raises(ConfigError, match="did you mean 'buffer_size'"):
        shop.serve(Role.PRELOADING)
    shop.serve(Role.PRELOADING)
    assert "not open" in repr(shop)
    assert shop._sync is None


@pytest.mark.once
@pytest.mark.parametrize(("function", "opened"), [("spawn_worker", True), ("reexec", False)])
def test_only_a_worker_of_a_preloading_server_opens_the_bus(
    shop: DjangoBus, function: str, opened: bool
) -> None:
    """A child that becomes a new master does not."""
    shop.serve(Role.PRELOADING)
    names: dict[str, Any] = {"__name__": "gunicorn.arbiter"}
    exec(f"def {function}(fork): fork()", names)
    names[function](shop._after_fork)
    assert ("not open" not in repr(shop)) is opened


def test_a_bus_that_is_opened_at_the_very_end_is_closed(
    shop: DjangoBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the threads have ended, ``threading`` takes no more callbacks; ``atexit`` does."""

    def too_late(call: object) -> None:
        raise RuntimeError("can't register atexit after shutdown")

    registered: list[object] = []
    monkeypatch.setattr(threading, "_register_atexit", too_late)
    monkeypatch.setattr(atexit, "register", registered.append)
    shop.open()
    assert shop.close in registered


def test_the_worker_gets_a_bus_that_is_not_started() -> None:
    """With the handlers of all apps, found in their modules, and with the topics of their catalogues."""
    bus.publish(PLACED, placed(1))
    bus.drain(5)
    assert [receipt.number for receipt in Receipt.objects.all()] == [1]
    made = application()
    assert made.bus.status == "not started"
    assert names(made) == ["receipts"]
    assert {*made.topics} >= {"shop.order.placed", "shop.receipt.written"}
    assert made.bus.subscriptions[0].handler.__qualname__ == "write_receipt"
    made.start()
    bus.publish("shop.order.placed", placed(2))
    bus.drain(5)
    assert made is bus.open()
    assert Receipt.objects.count() == 2


# --- settings ---------------------------------------------------------------------------------------------


def test_the_settings_are_checked() -> None:
    """``manage.py check`` lists every fault; a path works as well as a mapping."""
    assert checks.run_checks(tags=["promenade_bus"]) == []
    wrong = {"bus": {"adapter": "memory", "bufer_size": 1, "worker_pool_size": 0}}
    with override_settings(PROMENADE_BUS=wrong, PROMENADE_BUS_HANDLERS="nowhere"):
        found = checks.run_checks(tags=["promenade_bus"])
    assert [message.id for message in found] == ["promenade_bus.E002"] * 2 + ["promenade_bus.E003"]
    assert any("did you mean 'buffer_size'" in message.msg for message in found)
    with override_settings(PROMENADE_BUS=None):
        [message] = checks.run_checks(tags=["promenade_bus"])
        with pytest.raises(ImproperlyConfigured, match="got nothing; set it in the settings"):
            DjangoBus().open()
    assert message.id == "promenade_bus.E001"
    with override_settings(PROMENADE_BUS=Path("nowhere.yaml")):
        [message] = checks.run_checks(tags=["promenade_bus"])
    assert "nowhere.yaml" in message.msg


# --- processes --------------------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of any fork beside threads
import django_support
django_support.configure()
from uuid import uuid4
from django_support.shop.events import PLACED, Placed
from promenade_bus_django import DjangoBus
from promenade_bus_django.processes import Role
shop = DjangoBus()

@shop.subscribe(PLACED, name="looking")
async def look(event):
    from asgiref.sync import sync_to_async
    await sync_to_async(print)(json.dumps([sys.argv[1], event.number]), flush=True)
"""


def lines_of(script: str, name: str) -> list[Any]:
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + script, name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(root / "tests"), "PATH": ""},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="these versions start no thread at the end of a process: python/cpython issue 113964",
)
def test_the_end_of_a_process_drains_the_bus() -> None:
    """Also of async handlers that need a thread: nothing that was published in memory is lost."""
    published = "for number in range(3): shop.publish(PLACED, Placed(aggregate_id=uuid4(), number=number))"
    assert sorted(lines_of(published, "end")) == [["end", 0], ["end", 1], ["end", 2]]


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no fork on this system")
def test_a_forked_child_opens_a_bus_of_its_own() -> None:
    """At the first use; the child of a preloading server at once."""
    forking = """
shop.publish(PLACED, Placed(aggregate_id=uuid4(), number=1))
shop.drain(5)
shop._role = Role.PRELOADING if sys.argv[1] == "preloaded" else Role.OTHER
fork = {"__name__": "gunicorn.arbiter", "os": os}
exec("def spawn_worker(): return os.fork()", fork)
if child := fork["spawn_worker"]():
    assert os.waitpid(child, 0)[1] == 0
else:
    sys.argv[1] += " child"
    assert ("not open" in repr(shop)) is ("preloaded" not in sys.argv[1])
    shop.publish(PLACED, Placed(aggregate_id=uuid4(), number=2))
    shop.drain(5)
"""
    assert lines_of(forking, "lazy") == [["lazy", 1], ["lazy child", 2]]
    assert lines_of(forking, "preloaded") == [["preloaded", 1], ["preloaded child", 2]]


def test_the_settings_of_the_tests_are_in_force() -> None:
    """The project of these tests runs in memory, and encodes its events."""
    assert MEMORY["bus"]["memory"] == {"serialize": True}
