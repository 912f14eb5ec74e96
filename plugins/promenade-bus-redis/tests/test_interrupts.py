"""Ctrl-C while commands wait for a server that does not answer."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.interrupts import interrupted_when_idle

pytestmark = pytest.mark.once

ONE = ["--topic", "shop.order.placed", "--type", "order.placed", "--aggregate-id", "new"]
APP = """
from bus_core import open_bus, open_sync_bus

bus, sync = open_bus("app.yaml"), open_sync_bus("app.yaml")
"""
CLOSING = "SIGINT: closing; a second signal stops at once"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A configuration and an application, whose server takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        options = {"addr": f"127.0.0.1:{mute.getsockname()[1]}", "connect_timeout": "10m"}
        bus = {"adapter": "redis", "strict_topics": False, "redis": options}
        (tmp_path / "app.yaml").write_text(json.dumps({"app": {"name": "shop"}, "bus": bus}))
        (tmp_path / "shop.py").write_text(APP)
        yield tmp_path


@pytest.mark.parametrize(
    ("command", "last"),
    [
        (["groups", "list", "--config", "app.yaml"], CLOSING),
        (["groups", "forget", "shop.mail", "--config", "app.yaml"], CLOSING),
        (["health", "--config", "app.yaml"], CLOSING),
        (["health", "--app", "shop:sync"], CLOSING),
        (["publish", *ONE, "--config", "app.yaml"], "interrupted: 0 events published"),
        (["publish", "--file", "-", "--app", "shop:sync"], "interrupted: 0 events published"),
        (["run", "shop:bus"], "stopped while the bus was starting"),
        (["run", "shop:sync"], "stopped while the bus was starting"),
    ],
)
def test_every_command_ends(directory: Path, command: list[str], last: str) -> None:
    """Ctrl-C ends each command that connects, though no answer comes and a thread waits for one."""
    done = subprocess.run(
        interrupted_when_idle(*command),
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 130
    assert done.stdout.splitlines()[-1] == last
