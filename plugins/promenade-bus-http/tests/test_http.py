from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from bus_core import BaseEvent, Bus, PluginError, Topic, open_bus, open_sync_bus
from bus_core.abc import WorkerEndpoint
from bus_core.plugins import discover
from promenade_bus_http import Limits, http_app, many, serve
from promenade_bus_http.server import serve_at, serve_many_at
from redis_support.fixtures import StartServer, start_server
from redis_support.streams import until

__all__ = ["start_server"]

WITHIN = 30.0
PROMPTLY = 20.0
"""Seconds for an answer that comes within 5 seconds where the machine is not busy."""
PLACED = Topic("sales.order.placed", BaseEvent)
QUICK = Limits(loop=0.4)


def an_event(**data: Any) -> BaseEvent:
    return BaseEvent("order.placed", uuid4(), data=data)


def make_bus(**bus: Any) -> Bus:
    return open_bus({"bus": {"adapter": "memory", "service": "shop", "strict_topics": False, **bus}})


class Client:
    """Asks a server that runs in another thread or process; for threads that may block."""

    def __init__(self, where: str) -> None:
        self._host, _, port = where.removeprefix("http://").rpartition(":")
        self._port = int(port)

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(self._host.strip("[]"), self._port, timeout=WITHIN)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def json(self, path: str) -> tuple[int, dict[str, Any]]:
        response, body = self.ask(path)
        return response.status, json.loads(body)


async def asked(client: Client, path: str) -> tuple[int, dict[str, Any]]:
    """The same for a test whose loop is that of the bus."""
    return await asyncio.to_thread(client.json, path)


async def asked_until(client: Client, path: str, status: int) -> tuple[float, dict[str, Any]]:
    """The time until the path answered with the status, and the answer."""
    began = time.monotonic()
    while True:
        found, answer = await asked(client, path)
        if found == status:
            return time.monotonic() - began, answer
        assert time.monotonic() - began < WITHIN, (found, answer)
        await asyncio.sleep(0.02)


class Watching:
    """Asks ``/livez`` and ``/readyz`` again and again, from a thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.alive: list[int] = []
        self.ready: list[tuple[float, int, dict[str, Any]]] = []

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.alive.append(self._client.json("/livez")[0])
            status, answer = self._client.json("/readyz")
            self.ready.append((time.monotonic(), status, answer))


# --- the application --------------------------------------------------------------------------------------


async def test_a_bus_is_ready_while_it_is_open() -> None:
    """A bus that has not started, or is closed, is not ready, and says why; the process lives."""
    bus = make_bus()
    with serve(bus, port=0) as where:
        client = Client(where)
        status, answer = await asked(client, "/readyz")
        assert status == 503
        assert answer["causes"][0]["summary"] == "the bus is not started"
        assert (answer["causes"][0]["value"], answer["causes"][0]["threshold"]) == ("unhealthy", "degraded")
        async with bus:
            assert await asked(client, "/readyz") == (200, {"status": "ready"})
            assert await asked(client, "/livez") == (200, {"status": "alive"})
        status, answer = await asked(client, "/readyz")
        assert (status, answer["causes"][0]["summary"]) == (503, "the bus is closed")
        assert (await asked(client, "/healthz"))[0] == 503
        assert (await asked(client, "/livez"))[0] == 200


async def test_health_is_the_report() -> None:
    """Each check has its status, summary and figures; only an unhealthy report is an error."""
    async with make_bus(
        health={"probes": ["engine", {"event-loop": {"degraded": "10s", "unhealthy": "20s"}}]}
    ) as bus:
        with serve(bus, port=0) as where:
            status, answer = await asked(Client(where), "/healthz")
            assert (status, answer["status"]) == (200, "healthy")
            assert {*answer["checks"]} == {"bus", "engine", "event-loop"}
            assert answer["checks"]["engine"]["figures"]["worker_pool_size"] == 10
            subscription = bus.subscribe(PLACED, print, name="paused")
            subscription.pause()
            status, answer = await asked(Client(where), "/healthz")
            assert (status, answer["status"]) == (200, "degraded")
            assert "is paused" in answer["checks"]["engine"]["summary"]
            assert (await asked(Client(where), "/readyz"))[0] == 200
        with serve(bus, port=0, limits=Limits(worst="healthy")) as where:
            status, answer = await asked(Client(where), "/readyz")
            assert (status, answer["causes"][0]["check"]) == (503, "engine")


async def test_it_is_mounted_in_an_application() -> None:
    """Below a path of a Starlette application, on the event loop of the bus, it answers the same."""
    bus = make_bus()
    application = Starlette(routes=[Mount("/bus", app=http_app(bus))])
    transport = httpx.ASGITransport(app=application)
    async with bus, httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert (await client.get("/bus/readyz")).json() == {"status": "ready"}
        assert (await client.get("/bus/livez")).json() == {"status": "alive"}
        head = await client.head("/bus/healthz")
        assert (head.status_code, head.content, head.headers["cache-control"]) == (200, b"", "no-store")
        assert int(head.headers["content-length"]) > 10
        missing = await client.get("/bus/health")
        assert missing.status_code == 404
        assert missing.json()["error"] == (
            "there is nothing at this path; paths are /livez, /readyz, /healthz, /metrics"
        )
        assert (await client.post("/bus/readyz")).status_code == 405


def test_it_serves_a_bus_for_threads() -> None:
    """A SyncBus, whose loop is in a thread of its own, is asked there."""
    sync = open_sync_bus({"bus": {"adapter": "memory"}})
    with serve(sync, port=0) as where, sync:
        assert Client(where).json("/readyz") == (200, {"status": "ready"})


async def test_the_lifespan_and_other_protocols() -> None:
    """A server that announces its start and end is answered, and a websocket is refused."""
    application = http_app(make_bus())
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        return {"type": next(messages)}

    await application({"type": "lifespan"}, receive, send)
    assert [each["type"] for each in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    messages = iter(["websocket.connect"])
    await application({"type": "websocket"}, receive, send)
    assert sent[-1] == {"type": "websocket.close", "code": 1008}
    with pytest.raises(RuntimeError, match="an ASGI scope of type 'other'"):
        await application({"type": "other"}, receive, send)


# --- metrics ----------------------------------------------------------------------------------------------


async def test_metrics_are_those_of_the_observer() -> None:
    """``/metrics`` gives what Prometheus can read, in the format that is asked for."""
    async with make_bus(observers=["prometheus"]) as bus:
        await bus.publish(PLACED, an_event())
        with serve(bus, port=0) as where:
            client = Client(where)
            response, body = await asyncio.to_thread(client.ask, "/metrics")
            assert response.status == 200
            assert (response.getheader("content-type") or "").startswith("text/plain")
            families = {family.name: family for family in text_string_to_metric_families(body.decode())}
            assert [sample.value for sample in families["promenade_bus_published"].samples] == [1]
            openmetrics = "application/openmetrics-text; version=1.0.0"
            response, body = await asyncio.to_thread(client.ask, "/metrics", Accept=openmetrics)
            assert (response.getheader("content-type") or "").startswith("application/openmetrics-text")
            assert body.endswith(b"# EOF\n")


async def test_without_metrics_the_answer_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an observer that gives figures it is a 404 that says what to install, or what to select."""
    async with make_bus() as bus:
        transport = httpx.ASGITransport(app=http_app(bus))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            found = await client.get("/metrics")
        assert (found.status_code, found.text) == (
            404,
            "no observer of this bus gives figures: add 'prometheus' to 'bus.observers'\n",
        )
    config = {"bus": {"adapter": "memory", "plugins": {"disable": ["prometheus"]}}}
    async with open_bus(config) as bus:
        transport = httpx.ASGITransport(app=http_app(bus))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            found = await client.get("/metrics")
        assert "run 'pip install promenade-bus-prometheus' and add 'prometheus' to" in found.text


# --- what makes it unready --------------------------------------------------------------------------------


async def test_a_blocked_loop_is_told_and_not_mute() -> None:
    """While a handler blocks the event loop ``/readyz`` names it, with seconds; then it is ready again."""
    told: list[bool] = []
    async with make_bus() as bus:

        @bus.subscribe(PLACED, name="blocking")
        async def blocking(event: BaseEvent) -> None:
            end = time.monotonic() + 30
            while time.monotonic() < end and not any(status == 503 for _, status, _ in seen.ready):
                time.sleep(0.05)  # noqa: ASYNC251 - it is what this is about
            told.append(time.monotonic() < end)

        with serve(bus, port=0, limits=QUICK) as where:
            client = Client(where)
            await asked_until(client, "/readyz", 200)
            with Watching(client) as seen:
                await bus.publish(PLACED, an_event())
                await bus.drain()
            await asked_until(client, "/readyz", 200)
    assert told == [True], seen.ready
    unready = [answer for _, status, answer in seen.ready if status == 503]
    (cause,) = unready[-1]["causes"]
    assert (cause["check"], cause["threshold"]) == ("event-loop", 0.4)
    assert 0.4 <= cause["value"] < 30
    assert "the event loop of the bus has not answered for" in cause["summary"]
    assert {*seen.alive} == {200}


async def test_a_loop_that_is_stuck_for_long_is_worth_a_restart() -> None:
    """Where only a restart helps, ``/livez`` says so as well."""
    async with make_bus() as bus:
        with serve(bus, port=0, limits=Limits(loop=0.1, stuck=0.6)) as where:
            client = Client(where)
            await asked_until(client, "/readyz", 200)
            with Watching(client) as seen:
                time.sleep(1.6)  # noqa: ASYNC251 - the loop is blocked on purpose
            await asked_until(client, "/livez", 200)
    assert 503 in seen.alive
    assert seen.alive[0] == 200


async def test_a_full_buffer_is_told() -> None:
    """A bus whose buffer is full gets no further work until its handlers have caught up."""
    gate = asyncio.Event()
    async with make_bus(buffer_size=4) as bus:

        @bus.subscribe(PLACED, name="slow")
        async def slow(event: BaseEvent) -> None:
            await gate.wait()

        with serve(bus, port=0) as where:
            client = Client(where)
            for _ in range(4):
                await bus.publish(PLACED, an_event())
            seconds, answer = await asked_until(client, "/readyz", 503)
            assert seconds < PROMPTLY
            (cause,) = answer["causes"]
            assert (cause["check"], cause["value"], cause["threshold"]) == ("buffer", 4, 4)
            assert (await asked(client, "/livez"))[0] == 200
            gate.set()
            await asked_until(client, "/readyz", 200)


@pytest.mark.parametrize("probes", [[], ["redis"]], ids=["without a probe", "with the probe"])
async def test_a_server_that_stops_is_told(start_server: StartServer, probes: list[str]) -> None:
    """While Redis is stopped ``/readyz`` names it within 5 s; once it is back the bus is ready by itself."""
    server = start_server(settings={"appendonly": "yes"})
    redis = {"adapter": "redis", "redis": {"addr": server.address}, "shutdown_timeout": "1s"}
    async with make_bus(**redis, health={"probes": probes}) as bus:

        async def handle(event: BaseEvent) -> None: ...

        await bus.subscribe(PLACED, handle, name="stock").ready()
        with serve(bus, port=0) as where:
            client = Client(where)
            await asked_until(client, "/readyz", 200)
            with Watching(client) as seen:
                server.stop()
                seconds, answer = await asked_until(client, "/readyz", 503)
                assert seconds < PROMPTLY
                checks = {cause["check"]: cause for cause in answer["causes"]}
                assert {*checks} & {"bus", "redis"}
                assert all(cause["value"] == "unhealthy" for cause in checks.values())
                assert all(cause["threshold"] == "degraded" for cause in checks.values())
                server.restart()
                await asked_until(client, "/readyz", 200)
            assert {*seen.alive} == {200}


async def test_nothing_of_an_event_is_told() -> None:
    """No answer contains data of an event or of its handler's errors."""
    secret = "4711-secret"
    async with make_bus(retry_attempts=1, observers=["prometheus"], health={"probes": ["engine"]}) as bus:

        @bus.subscribe(PLACED, name="failing")
        async def failing(event: BaseEvent) -> None:
            raise ValueError(event.data["number"])

        await bus.publish(PLACED, an_event(number=secret), headers={"session": secret})
        await bus.drain()
        with serve(bus, port=0) as where:
            for path in ("/livez", "/readyz", "/healthz", "/metrics"):
                _, body = await asyncio.to_thread(Client(where).ask, path)
                assert secret.encode() not in body
                assert b"ValueError" not in body


# --- where it listens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0", ":0", "127.0.0.1:0"])
async def test_only_this_machine_reaches_it_by_default(address: str) -> None:
    """Without a host it listens on the loopback interface only."""
    with serve_at(make_bus(), address) as where:
        assert where.startswith("http://127.0.0.1:")
        assert (await asked(Client(where), "/livez"))[0] == 200


async def test_other_interfaces_have_to_be_asked_for() -> None:
    """With a host it listens there, IPv6 included."""
    with serve_at(make_bus(), "0.0.0.0:0") as where:
        assert where.startswith("http://0.0.0.0:")
        assert (await asked(Client(where), "/livez"))[0] == 200
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return  # a machine without IPv6
    with serve_at(make_bus(), "[::1]:0") as where:
        assert where.startswith("http://[::1]:")
        assert (await asked(Client(where), "/livez"))[0] == 200


@pytest.mark.parametrize("address", ["", "localhost", "localhost:http", "localhost:70000", "8080:"])
def test_what_is_no_address_is_an_error(address: str) -> None:
    """An address that cannot be read says how one is written."""
    with pytest.raises(PluginError, match="is no address to serve HTTP at; write HOST:PORT"):
        serve_at(make_bus(), address)


def test_an_address_that_is_taken_is_an_error() -> None:
    """Where somebody else listens, the error names the address and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = rf"cannot serve HTTP at 127\.0\.0\.1:{port}: Address already in use; give another"
        with pytest.raises(PluginError, match=text), serve(make_bus(), port=port):
            pass


def test_without_uvicorn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application needs no server; serving it by itself does, and the error has the command."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with (
        pytest.raises(PluginError, match=r"needs uvicorn: run pip install 'promenade-bus-http\[uvicorn\]'"),
        serve(make_bus(), port=0),
    ):
        pass


def test_it_ends_with_the_block() -> None:
    """After the block nobody listens any more, and no thread is left."""
    with serve(make_bus(), port=0) as where:
        assert Client(where).json("/livez")[0] == 200
    with pytest.raises(ConnectionError):
        Client(where).json("/livez")
    assert not [thread for thread in threading.enumerate() if thread.name == "promenade-http"]


def test_it_is_found() -> None:
    """The installed distribution offers one endpoint."""
    assert discover().endpoints.select("http").origin.startswith("promenade-bus-http ")


# --- promenade-bus run --http -----------------------------------------------------------------------------

WORKER = """
import asyncio, pathlib, time
from bus_core import BaseEvent, open_bus

bus = open_bus({"bus": {
    "adapter": "memory", "service": "shop", "strict_topics": False, "shutdown_timeout": "20s",
    "observers": ["prometheus"],
}})

@bus.subscribe("sales.order.placed", name="stock")
async def stock(event):
    if event.data["block"]:
        time.sleep(4)
    pathlib.Path("began").touch()
    while not pathlib.Path("go-on").exists():
        await asyncio.sleep(0.01)

async def make():
    asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(place()))
    return bus

async def place():
    from uuid import uuid4
    while bus.status != "open":
        await asyncio.sleep(0.01)
    await bus.publish("sales.order.placed", BaseEvent("order.placed", uuid4(), data={"block": BLOCK}))
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Client]]]:
    """``worker(block)``: a process of ``promenade-bus run`` that serves, and who asks it."""
    started: list[subprocess.Popen[str]] = []

    def start(*, block: bool) -> tuple[subprocess.Popen[str], Client]:
        (tmp_path / "shop.py").write_text(WORKER.replace("BLOCK", repr(block)))
        command = [sys.executable, "-m", "bus_core", "run", "shop:make", "--http", "0"]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("probes and metrics are at "):
                return process, Client(line.split()[-1])
        raise AssertionError("it ended")

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ask_until(client: Client, path: str, status: int) -> tuple[float, dict[str, Any]]:
    return asyncio.run(asked_until(client, path, status))


def test_a_worker_serves_until_it_has_drained(worker: Any, tmp_path: Path) -> None:
    """A worker is ready, is not while it drains, and ends well; then nobody listens."""
    process, client = worker(block=False)
    ask_until(client, "/readyz", 200)
    response, body = client.ask("/metrics")
    assert response.status == 200
    assert b"promenade_bus_workers" in body
    asyncio.run(until((tmp_path / "began").exists, "a handler runs", WITHIN))
    process.send_signal(signal.SIGTERM)
    _, answer = ask_until(client, "/readyz", 503)
    assert answer["causes"][0]["summary"] == "the bus is closing"
    assert client.json("/livez")[0] == 200
    (tmp_path / "go-on").touch()
    assert process.wait(WITHIN) == 0
    with pytest.raises(ConnectionError):
        client.json("/livez")


def test_a_worker_whose_loop_is_blocked_says_so(worker: Any) -> None:
    """With the limits that there are by default it is told within 5 s, and it is ready again by itself."""
    _, client = worker(block=True)
    seconds, answer = ask_until(client, "/readyz", 503)
    assert seconds < PROMPTLY
    (cause,) = answer["causes"]
    assert (cause["check"], cause["threshold"]) == ("event-loop", 2.0)
    assert cause["value"] >= 2
    assert client.json("/livez")[0] == 200
    response, body = client.ask("/metrics")
    assert response.status == 200
    assert b"promenade_bus_snapshot_age_seconds" in body
    ask_until(client, "/readyz", 200)


def test_without_the_plugin_the_command_says_what_to_install(tmp_path: Path) -> None:
    """An endpoint that nobody offers is an error before the bus starts."""
    (tmp_path / "shop.py").write_text(
        "from bus_core import open_bus\n"
        'bus = open_bus({"bus": {"adapter": "memory", "plugins": {"disable": ["http"]}}})\n'
    )
    command = [sys.executable, "-m", "bus_core", "run", "shop:bus", "--http", "127.0.0.1:0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "unknown endpoint 'http'" in done.stderr
    assert "promenade-bus-http" in done.stderr


# --- several processes ------------------------------------------------------------------------------------


def asked_of_many(workers: list[WorkerEndpoint], path: str) -> tuple[int, dict[str, Any]]:
    """The answer of the application for several workers."""
    with serve_many_at(lambda: workers, "0") as where:
        return Client(where).json(path)


async def test_of_several_processes_the_worst_counts() -> None:
    """Each cause names its process; a process that does not run is a cause, and no reason for a restart."""
    async with make_bus() as good, make_bus(buffer_size=1) as full:
        go_on = asyncio.Event()

        @full.subscribe(PLACED, name="waiting")
        async def wait(event: BaseEvent) -> None:
            await go_on.wait()

        with serve(good, port=0) as one, serve(full, port=0) as two:
            workers = [WorkerEndpoint("1", "runs", one), WorkerEndpoint("2", "runs", two)]
            assert await asyncio.to_thread(asked_of_many, workers, "/readyz") == (200, {"status": "ready"})
            await full.publish(PLACED, an_event())
            workers.append(WorkerEndpoint("3", "is starting", None))
            status, answer = await asyncio.to_thread(asked_of_many, workers, "/readyz")
            assert (status, answer["status"]) == (503, "not ready")
            assert [(cause["process"], cause["check"], cause["value"]) for cause in answer["causes"]] == [
                ("2", "buffer", 1),
                ("3", "process", "not running"),
            ]
            assert answer["causes"][1]["summary"] == "process 3 is starting"
            status, answer = await asyncio.to_thread(asked_of_many, workers, "/healthz")
            assert (status, answer["status"]) == (503, "unhealthy")
            assert {name: each["status"] for name, each in answer["processes"].items()} == {
                "1": "healthy",
                "2": "healthy",
                "3": "unhealthy",
            }
            assert await asyncio.to_thread(asked_of_many, workers, "/livez") == (200, {"status": "alive"})
            go_on.set()


def test_a_process_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process is not ready at once, and worth a restart only after a while."""
    monkeypatch.setattr(many, "_ANSWERS_WITHIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        worker = WorkerEndpoint("1", "runs", f"http://127.0.0.1:{mute.getsockname()[1]}")

        async def ask(app: many.ManyApp, path: str) -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app), base_url="http://x"
            ) as client:
                return await client.get(path)

        async def ask_all() -> None:
            app = many.ManyApp(lambda: [worker], Limits(stuck=0.1))
            ready = await ask(app, "/readyz")
            assert ready.status_code == 503
            assert ready.json()["causes"][0]["summary"] == "process 1 has not answered for 0.05 s"
            assert (await ask(app, "/metrics")).status_code == 503
            async with asyncio.timeout(WITHIN):
                while (alive := await ask(app, "/livez")).status_code == 200:
                    pass
            assert alive.json()["causes"][0]["threshold"] == 0.1

        asyncio.run(ask_all())
