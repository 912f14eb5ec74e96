from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import redis.exceptions

from redis_support import binaries, child_processes, fixtures
from redis_support.binaries import ServerBinary, find_binaries
from redis_support.child_processes import ChildProcesses, shared_children, wait_until
from redis_support.clusters import Cluster
from redis_support.fixtures import SharedServer, StartServer
from redis_support.sentinels import SentinelGroup
from redis_support.servers import Replica, Server, free_port

pytestmark = [pytest.mark.once, pytest.mark.timeout(90)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- what is found ----------------------------------------------------------------------------------------


def test_servers_are_found() -> None:
    """There is a server on every machine that runs the tests, and each product and version is there once."""
    ids = [binary.id for binary in find_binaries()]
    assert ids
    assert len(set(ids)) == len(ids)


def test_none_found_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server the tests fail, saying what to install; they are not skipped."""
    monkeypatch.setattr(fixtures, "find_binaries", lambda: ())
    (name,) = fixtures._own_binaries()
    with pytest.raises(pytest.fail.Exception, match=r"redis-server or valkey-server on PATH"):
        fixtures._binary(name)


def test_the_newest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One server is enough where the tests are about the Python; a misspelt wish is not taken for another."""
    monkeypatch.setenv("TEST_SERVERS", "newest")
    assert fixtures._own_binaries() == [binaries.newest_binary().id]
    monkeypatch.setenv("TEST_SERVERS", "all")
    assert len(fixtures._own_binaries()) == len(find_binaries())
    monkeypatch.setenv("TEST_SERVERS", "latest")
    with pytest.raises(pytest.UsageError, match="'latest'; it can be 'all', 'newest' or"):
        fixtures._own_binaries()


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_parts_are_all_together(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """Each server is in one of the parts, the newest in the first one, and no part is without any."""
    named = []
    for part in range(1, parts + 1):
        monkeypatch.setenv("TEST_SERVERS", f"{part}/{parts}")
        named.append(fixtures._own_binaries())
    found = [binary.id for binary in find_binaries()]
    assert {name for names in named for name in names} == set(found)
    assert all(named)
    assert binaries.newest_binary().id in named[0]
    if 1 < parts <= len(found):  # once each; the last one in the last part
        assert [len(names) for names in named] == [1, len(found) - parts + 1, *[1] * (parts - 2)]
        assert named[-1][0] == [name for name in found if name not in named[0]][-1]


def test_a_file_that_does_not_run_here_is_passed_over(tmp_path: Path) -> None:
    """A binary of another system, or of something else, is no server."""
    broken = tmp_path / "redis-server"
    broken.write_bytes(b"\x7fELF nonsense")
    other = tmp_path / "valkey-server"
    other.write_text("#!/bin/sh\necho hello\n")
    assert binaries._examine(broken, "PATH") is None
    assert binaries._examine(other, "PATH") is None


def test_the_servers_differ_as_expected(binary: ServerBinary) -> None:
    """A test can ask for what came with a version, whoever makes the server."""
    assert binary.at_least((6, 2))
    assert binary.at_least((99, 0)) is (binary.product == "valkey")


# --- one server -------------------------------------------------------------------------------------------


def test_life_of_a_server(binary: ServerBinary, start_server: StartServer) -> None:
    """A server keeps port and data over a kill, and what it had not written is gone."""
    server = start_server(binary, settings={"appendonly": "yes", "appendfsync": "always"}, password="geheim")
    port = server.port
    server.ask("SET", "key", "value")
    server.kill()
    assert not server.is_running
    with pytest.raises(redis.ConnectionError):
        server.ask("PING")
    server.restart()
    assert (server.port, server.ask("GET", "key")) == (port, "value")
    assert server.append_only_file.stat().st_size > 0
    server.stop()
    server.reconfigure(appendonly="no")
    server.restart()
    assert server.ask("DBSIZE") == 0


def test_a_paused_server_does_not_answer(binary: ServerBinary, start_server: StartServer) -> None:
    """A paused server keeps its connections, answers nothing, and goes on where it was."""
    server = start_server(binary)
    with server.client(socket_timeout=0.2) as client:
        client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_users_and_socket(binary: ServerBinary, start_server: StartServer) -> None:
    """A server has the users that are asked for, and listens on a Unix socket."""
    server = start_server(binary, password="geheim", users=["user app on >secret ~app:* +get +set"])
    with server.client(username="app", password="secret") as client:
        client.set("app:1", "x")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("other", "x")
    with redis.Redis(unix_socket_path=str(server.socket_path), password="geheim") as client:
        assert client.get("app:1") == b"x"


def test_a_replica_follows(binary: ServerBinary, start_server: StartServer) -> None:
    """A replica is in step when it is started, and takes no writes."""
    primary = start_server(binary, password="geheim")
    primary.ask("SET", "key", "value")
    with Replica(primary) as replica:
        assert replica.ask("GET", "key") == "value"
        with pytest.raises(redis.ReadOnlyError):
            replica.ask("SET", "key", "other")


def test_a_server_that_cannot_start(binary: ServerBinary) -> None:
    """A server that ends at once is an error with what it said."""
    server = Server(binary, settings={"no-such-directive": "yes"})
    with pytest.raises(RuntimeError, match="no-such-directive"):
        server.start()
    server.close()
    assert not server.directory.exists()


def test_a_port_that_is_taken(binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that somebody takes in the meantime is given up for another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free_port()])
        monkeypatch.setattr("redis_support.servers.free_port", lambda: next(ports))
        with Server(binary) as server:
            assert server.port != taken.getsockname()[1]
            assert server.ask("PING") == "PONG"


# --- shared -----------------------------------------------------------------------------------------------

seen: set[str] = set()


@pytest.mark.parametrize("_number", range(2))
def test_each_test_has_its_own_keys(redis_server: SharedServer, _number: int) -> None:
    """Tests share a server, never a prefix."""
    assert redis_server.prefix not in seen
    seen.add(redis_server.prefix)
    assert redis_server.keys() == []
    redis_server.ask("SET", f"{redis_server.prefix}:key", "value")
    assert redis_server.keys() == [f"{redis_server.prefix}:key"]


# --- several ----------------------------------------------------------------------------------------------


def test_sentinels_fail_over(binary: ServerBinary) -> None:
    """A killed primary is replaced, comes back as a replica, and can be replaced for again."""
    with SentinelGroup(binary, password="geheim", sentinel_password="psst") as group:
        first = group.primary()
        first.ask("SET", "key", "value")
        assert first.ask("WAIT", 1, 5000) == 1
        first.kill()
        second = group.wait_failed_over(first)
        assert second.ask("GET", "key") == "value"
        group.rejoin(first)
        assert first.ask("ROLE")[0] == "slave"
        second.kill()
        assert group.wait_failed_over(second) is first


def test_cluster(binary: ServerBinary) -> None:
    """A cluster spreads its keys, follows with replicas, and moves slots."""
    with Cluster(binary, replicas=1) as cluster:
        source = cluster.owner_of("key")
        source.ask("SET", "key", "value")
        target = next(server for server in cluster.primaries if server is not source)
        with pytest.raises(redis.exceptions.MovedError):
            target.ask("SET", "key", "value")
        cluster.move_slot(cluster.slot_of("key"), source, target)
        assert cluster.owner_of("key") is target
        assert target.ask("GET", "key") == "value"


# --- nothing is left behind -------------------------------------------------------------------------------

ORPHAN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
sys.path[:0] = [sys.argv[1]]
from redis_support.servers import Server
server = Server().start()
print(server.process.pid, server.directory, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("paused", [False, True])
def test_nothing_outlives_the_test_process(number: signal.Signals, paused: bool) -> None:
    """When the test process is killed, its servers, paused ones too, and their directories go as well."""
    support = Path(child_processes.__file__).parent.parent
    script = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, support],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with script:
        assert script.stdout is not None
        pid, directory = script.stdout.readline().split()
        if paused:
            os.kill(int(pid), signal.SIGSTOP)
        script.send_signal(number)
        script.wait(10)
    wait_until(lambda: not is_alive(int(pid)), "the server is gone")
    wait_until(lambda: not Path(directory).exists(), "its directory is gone")


def test_children_of_a_process_go_with_it() -> None:
    """Children of a process are killed with it."""
    directory = shared_children().directory()
    process = shared_children().start(
        ["sh", "-c", "sleep 600 & echo $!; wait"], directory=directory, log=directory / "log"
    )
    wait_until(lambda: process.log_text().endswith("\n"), "the child is started")
    child = int(process.log_text())
    process.kill_group()
    wait_until(lambda: not is_alive(child), "the child is gone")
    shared_children().remove(directory)


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    """A process that cannot be started is an error, and others can be started."""
    own = ChildProcesses()
    try:
        with pytest.raises(RuntimeError, match="no-such-command"):
            own.start(["no-such-command"], directory=tmp_path, log=tmp_path / "log")
        assert own.start(["true"], directory=tmp_path, log=tmp_path / "log").wait() == 0
    finally:
        own.close()


def test_a_cluster_takes_other_ports_when_its_own_are_taken() -> None:
    """A port that somebody takes between the look for it and the start is no failure."""
    cluster = Cluster()
    wanted = cluster.servers[1].port
    with socket.socket() as taken:
        taken.bind((cluster.servers[1].host, wanted))
        taken.listen()
        with cluster:
            assert cluster.servers[1].port != wanted
            assert cluster.servers[1].ask("PING")
