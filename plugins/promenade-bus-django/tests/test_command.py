"""``manage.py promenade_bus``: the command line with the project's bus; and a project in real processes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from django_support import MEMORY
from django_support.shop.models import Receipt
from redis_support.child_processes import Process, shared_children, wait_until
from redis_support.servers import free_port


def test_the_commands_take_the_projects_bus(capfd: pytest.CaptureFixture[str]) -> None:
    """With its handlers and the topics of its apps; nothing of it stays in the environment."""
    call_command("promenade_bus", "explain", "shop.order.placed")
    output = capfd.readouterr().out
    assert "receipts" in output
    assert "django_support.shop.handlers.write_receipt" in output
    placing = ["publish", "--topic", "shop.order.placed", "--aggregate-id", str(uuid4())]
    call_command("promenade_bus", *placing, "--set", "number=3")
    assert [receipt.number for receipt in Receipt.objects.all()] == [3]
    capfd.readouterr()
    call_command("promenade_bus", "health", "--json")
    assert json.loads(capfd.readouterr().out)["status"] == "healthy"
    assert "PROMENADE_BUS_APP" not in os.environ
    assert "PROMENADE_BUS_CONFIG" not in os.environ


def test_commands_without_an_application_take_the_settings(capfd: pytest.CaptureFixture[str]) -> None:
    """A mapping is theirs as a file, a path is theirs as it is; a configuration of the caller's wins."""
    config = {**MEMORY, "bus": {**MEMORY["bus"], "plugins": {"disable": ["prometheus"]}}}
    with override_settings(PROMENADE_BUS=config):
        call_command("promenade_bus", "plugins", "list")
    [line] = [line for line in capfd.readouterr().out.splitlines() if line.startswith("prometheus ")]
    assert "disabled" in line


def test_a_path_and_options_of_the_caller(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """``--config`` is taken instead of the project; a failure is a ``CommandError`` with its exit status."""
    (tmp_path / "bus.yaml").write_text("app: {name: elsewhere}\nbus: {adapter: memory}\n")
    with override_settings(PROMENADE_BUS=tmp_path / "bus.yaml"):
        call_command("promenade_bus", "config", "show")
        assert "elsewhere" in capfd.readouterr().out
    call_command("promenade_bus", "explain", "--config", str(tmp_path / "bus.yaml"))
    assert "service     elsewhere" in capfd.readouterr().out
    with pytest.raises(CommandError, match="exit status 2") as raised:
        call_command("promenade_bus", "runn")
    assert raised.value.returncode == 2
    assert "did you mean 'run'?" in capfd.readouterr().err


# --- a project in processes -------------------------------------------------------------------------------

FILES = {
    "manage.py": """
        import os, sys
        from django.core.management import execute_from_command_line
        os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
        execute_from_command_line(sys.argv)
        """,
    "settings.py": """
        from pathlib import Path
        HERE = Path(__file__).parent
        ALLOWED_HOSTS = ["127.0.0.1"]
        DATABASES = {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": HERE / "app.db",
                "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
            }
        }
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        INSTALLED_APPS = ["promenade_bus_django", "promenade_bus_django.outbox", "django_support.shop"]
        PROMENADE_BUS = {
            "app": {"name": "shop"},
            "bus": {"adapter": "sqlite", "sqlite": {"path": f"{HERE}/bus.db"}},
        }
        ROOT_URLCONF = "django_support.shop.urls"
        SECRET_KEY = "only for a test"
        """,
    "wsgi.py": """
        import os
        from django.core.wsgi import get_wsgi_application
        os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
        application = get_wsgi_application()
        """,
}


class Site:
    """The project in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, text in FILES.items():
            (directory / name).write_text(textwrap.dedent(text))
        self._started: list[Process] = []

    def start(self, name: str, *arguments: str) -> Process:
        path = os.pathsep.join([str(self.directory), str(Path(__file__).resolve().parents[3] / "tests")])
        process = shared_children().start(
            [sys.executable, *arguments],
            directory=self.directory,
            log=self.directory / name,
            environment={**os.environ, "PYTHONPATH": path},
        )
        self._started.append(process)
        return process

    def ask(self, database: str, statement: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.directory / database, timeout=20)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def end(self) -> None:
        for process in self._started:
            process.kill_group()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.end()


@pytest.mark.once
def test_a_server_publishes_and_a_worker_handles(site: Site) -> None:
    """gunicorn, preloaded, publishes; ``manage.py promenade_bus run`` relays and handles, until SIGTERM."""
    migrating = site.start("migrate", "manage.py", "migrate", "--run-syncdb")
    assert migrating.wait(30) == 0, migrating.log_text()
    assert not (site.directory / "bus.db").exists(), "migrate opens no bus"
    address = f"127.0.0.1:{free_port()}"
    web = site.start("web", "-m", "gunicorn", "wsgi:application", "--preload", "--bind", address)
    worker = site.start("worker", "manage.py", "promenade_bus", "run")
    wait_until(lambda: "shop is running on 'sqlite' with 1 subscription" in worker.log_text(), "it runs", 30)

    def placed(path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}/{path}", timeout=10) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    wait_until(lambda: placed("place/7"), "the server answers", 30)
    assert placed("oplace/8")
    receipts = "SELECT number FROM shop_receipt ORDER BY number"
    wait_until(lambda: site.ask("app.db", receipts) == [(7,), (8,)], "the worker has written receipts", 30)
    waiting = "SELECT * FROM promenade_outbox"
    wait_until(lambda: site.ask("app.db", waiting) == [], "the relay has deleted the row", 30)
    for process in (worker, web):
        process.signal(signal.SIGTERM)
        assert process.wait(30) == 0, web.log_text() + worker.log_text()
    assert "handled 2 events, 0 dead-lettered, 0 lost" in worker.log_text()
    assert "nothing was abandoned" in worker.log_text()
    assert "Traceback" not in web.log_text() + worker.log_text()
