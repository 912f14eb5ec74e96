"""Processes that are killed between any two steps: nothing is lost, and every effect happens once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from postgres_support.servers import PostgresServer
from redis_support.fixtures import SharedServer

TESTS = Path(__file__).parents[3] / "tests"

# One server is enough: what is tested here is the outbox.
pytestmark = [pytest.mark.long, pytest.mark.once]


def account_of(**plan: Any) -> dict[str, Any]:
    """Runs a crew in a process of its own, which forks."""
    done = subprocess.run(
        [sys.executable, "-m", "outbox_support.crew", json.dumps(plan)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    account: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    account["log"] = done.stderr[-5000:]
    return account


def check(account: dict[str, Any], kills: int) -> None:
    assert (account["wrong"], account["failures"], account["waiting"]) == ([], [], 0), account
    assert account["deaths"] >= kills
    assert account["events"] > 50


def on(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if database == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/crew.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.url("asyncpg", request.getfixturevalue("postgres_database"))


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_relays_that_are_killed_lose_nothing(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, redis_server: SharedServer
) -> None:
    """Three relays, killed forty times in all, on both databases together: order per key, effects once."""
    account = account_of(
        url=on(database, request, tmp_path),
        redis=redis_server.url,
        prefix=redis_server.prefix,
        seed=int.from_bytes(os.urandom(4), "big"),
        kills=20,
    )
    check(account, 20)


def test_eight_writers_on_sqlite_lose_nothing(tmp_path: Path, redis_server: SharedServer) -> None:
    """Each in a process of its own, with a relay beside them."""
    account = account_of(
        url=f"sqlite+aiosqlite:///{tmp_path}/crew.db",
        redis=redis_server.url,
        prefix=redis_server.prefix,
        seed=7,
        kills=0,
        handler_kills=0,
        relays=1,
        writers=8,
        transactions=20,
    )
    check(account, 0)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(int(os.environ.get("OUTBOX_CREWS", "2"))))
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_hundreds_of_kills(
    database: str, seed: int, request: pytest.FixtureRequest, tmp_path: Path, redis_server: SharedServer
) -> None:
    """The long form: fifty of them in each of four crews. With OUTBOX_CREWS=10 they are a thousand."""
    account = account_of(
        url=on(database, request, tmp_path),
        redis=redis_server.url,
        prefix=redis_server.prefix,
        seed=seed,
        kills=50,
        transactions=150,
        handler_kills=5,
    )
    check(account, 50)
