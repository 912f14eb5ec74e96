from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from bus_core import BaseEvent, Bus, BusStateError, ConfigError, PluginError, Topic, open_bus, open_sync_bus
from bus_core.plugins import discover
from promenade_bus_asgi import bus_app, bus_lifespan, bus_of, get_bus
from promenade_bus_http import http_app

PLACED = Topic("sales.order.placed", BaseEvent)
CurrentBus = Annotated[Bus, Depends(get_bus)]


async def committed_bus(bus: CurrentBus) -> AsyncIterator[Bus]:
    async with bus.after_commit():
        yield bus


CommittedBus = Annotated[Bus, Depends(committed_bus, scope="function")]


def an_event() -> BaseEvent:
    return BaseEvent("order.placed", uuid4())


class Shop:
    """A function that opens buses, and what became of them."""

    def __init__(self) -> None:
        self.buses: list[Bus] = []
        self.handled = 0

    def __call__(self) -> Bus:
        bus = open_bus({"bus": {"adapter": "memory"}})

        @bus.subscribe(PLACED, name="receipts")
        async def receipts(event: BaseEvent) -> None:
            self.handled += 1

        self.buses.append(bus)
        return bus

    async def later(self) -> Bus:
        return self()


@pytest.fixture
def shop() -> Shop:
    return Shop()


def make_app(lifespan: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan)

    @app.post("/async")
    async def publish(bus: CurrentBus) -> str:
        await bus.publish(PLACED, an_event())
        return bus.status

    @app.post("/sync")
    def publish_from_thread(bus: CurrentBus) -> str:
        with bus.from_thread.after_commit():
            bus.from_thread.publish_many([(PLACED, an_event()), (PLACED, an_event())])
            bus.from_thread.publish(PLACED, an_event())
        return bus.status

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, bus: CurrentBus) -> None:
        await websocket.accept()
        await websocket.send_text(f"{bus.status} {get_bus(websocket) is bus}")
        await websocket.close()

    return app


# --- the lifespan -----------------------------------------------------------------------------------------


def test_each_start_of_the_application_has_its_own_bus(shop: Shop) -> None:
    """A function is called at each start; the bus is open while the server runs, and drained at its end."""
    app = make_app(bus_lifespan(shop))
    for round_ in (1, 2):
        with TestClient(app) as client:
            assert client.post("/async").json() == "open"
            assert client.post("/sync").json() == "open"
        assert shop.handled == 4 * round_
        assert [bus.status for bus in shop.buses] == ["closed"] * round_


@pytest.mark.parametrize("kind", ["a bus", "an async function"])
def test_other_sources(shop: Shop, kind: str) -> None:
    """A bus itself, and an async function, can be the source."""
    with TestClient(make_app(bus_lifespan(shop() if kind == "a bus" else shop.later))) as client:
        client.post("/async")
    assert shop.handled == 1


def test_a_bus_starts_once(shop: Shop) -> None:
    """The second start of an application around one bus is an error that says what to give instead."""
    app = make_app(bus_lifespan(shop()))
    with TestClient(app):
        pass
    with (
        pytest.raises(BusStateError, match=r"this application is closed.* a function that opens a bus"),
        TestClient(app),
    ):
        pass


async def test_an_open_bus_is_left_to_its_owner(shop: Shop) -> None:
    """A bus that somebody else has started is refused, and stays open."""
    async with shop() as bus:
        with pytest.raises(BusStateError, match="the bus of this application is open"):
            async with bus_lifespan(bus)(FastAPI()):
                pass
        assert bus.status == "open"


@pytest.mark.parametrize("made", [None, open_sync_bus({"bus": {"adapter": "memory"}})])
def test_a_source_that_gives_no_bus(made: Any) -> None:
    """Something else than a ``Bus`` fails the start, and the error names its class."""
    with (
        pytest.raises(TypeError, match=rf"got {type(made).__name__}; make it with open_bus\(\)"),
        TestClient(make_app(bus_lifespan(lambda: made))),
    ):
        pass


def test_a_configuration_with_faults_fails_the_start() -> None:
    """An error of the source is the error of the start."""
    lifespan = bus_lifespan(lambda: open_bus({"bus": {"adapter": "memory", "worker_pol_size": 1}}))
    with pytest.raises(ConfigError, match="worker_pol_size"), TestClient(make_app(lifespan)):
        pass


def test_a_lifespan_inside(shop: Shop) -> None:
    """It runs while the bus is open, its state reaches the requests, and its end may still publish."""
    seen: list[str] = []

    @asynccontextmanager
    async def inside(app: Any) -> AsyncIterator[dict[str, int]]:
        seen.append(shop.buses[0].status)
        yield {"number": 7}
        await shop.buses[0].publish(PLACED, an_event())

    app = make_app(bus_lifespan(shop, inside=inside))

    @app.get("/number")
    async def number(request: Request, bus: CurrentBus) -> int:
        return int(request.state.number)

    with TestClient(app) as client:
        assert client.get("/number").json() == 7
    assert (seen, shop.handled) == (["open"], 1)


def test_a_lifespan_inside_that_fails_closes_the_bus(shop: Shop) -> None:
    """An error inside fails the start, and leaves no open bus behind."""

    @asynccontextmanager
    async def inside(app: Any) -> AsyncIterator[None]:
        raise LookupError("no prices")
        yield

    with (
        pytest.raises(LookupError, match="no prices"),
        TestClient(make_app(bus_lifespan(shop, inside=inside))),
    ):
        pass
    assert shop.buses[0].status == "closed"


# --- finding the bus --------------------------------------------------------------------------------------


def test_a_websocket_has_the_bus(shop: Shop) -> None:
    """The dependency works for websockets as for requests."""
    with TestClient(make_app(bus_lifespan(shop))) as client, client.websocket_connect("/socket") as socket:
        assert socket.receive_text() == "open True"


def test_a_mounted_application_has_the_bus(shop: Shop) -> None:
    """Applications that are mounted, at any depth, use the bus of the outermost one."""
    app = FastAPI(lifespan=bus_lifespan(shop))
    app.mount("/a", Starlette(routes=[Mount("/b", make_app(None))]))
    with TestClient(app) as client:
        assert client.post("/a/b/async").json() == "open"
    assert shop.handled == 1


async def test_a_test_may_run_the_lifespan_without_a_server(shop: Shop) -> None:
    """With httpx on the test's own loop the bus is found in the application, and afterwards no more."""
    app = make_app(bus_lifespan(shop))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        async with app.router.lifespan_context(app):
            assert (await client.post("/async")).json() == "open"
        with pytest.raises(PluginError, match="this application has no open bus"):
            await client.post("/async")
    assert shop.handled == 1


def test_without_a_bus_the_error_says_what_to_do() -> None:
    """Outside of a lifespan, and without one, the error has both remedies."""
    text = r"has no open bus: make it with 'lifespan=bus_lifespan\(\.\.\.\)'; in a test, run the lifespan"
    with pytest.raises(PluginError, match=text):
        TestClient(make_app(None)).post("/async")
    with pytest.raises(PluginError, match=text):
        bus_of({"type": "http"})


# --- transactions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/async", "/sync"])
def test_a_dependency_publishes_after_the_commit(shop: Shop, path: str) -> None:
    """A dependency's ``after_commit`` publishes the events of an endpoint only if the endpoint ends well."""
    app = FastAPI(lifespan=bus_lifespan(shop))

    @app.post("/async")
    async def publish(fail: bool, bus: CommittedBus) -> None:
        await bus.publish(PLACED, an_event())
        if fail:
            raise LookupError("rolled back")

    @app.post("/sync")
    def publish_from_thread(fail: bool, bus: CommittedBus) -> None:
        bus.from_thread.publish(PLACED, an_event())
        if fail:
            raise LookupError("rolled back")

    with TestClient(app) as client:
        with pytest.raises(LookupError):
            client.post(f"{path}?fail=true")
        assert client.post(f"{path}?fail=false").status_code == 200
    assert shop.handled == 1


# --- mounted applications ---------------------------------------------------------------------------------


def test_the_probes_are_mounted_before_there_is_a_bus(shop: Shop) -> None:
    """``bus_app(http_app)`` answers for the bus of each start, and is made once for each."""
    made: list[Bus] = []

    def make(bus: Bus) -> Any:
        made.append(bus)
        return http_app(bus)

    app = FastAPI(lifespan=bus_lifespan(shop))
    app.mount("/bus", bus_app(make))
    for _ in range(2):
        with TestClient(app) as client:
            for _ in range(2):
                assert client.get("/bus/readyz").json() == {"status": "ready"}
            assert client.get("/bus/livez").status_code == 200
    assert made == shop.buses


def test_starlette(shop: Shop) -> None:
    """Starlette alone has the same: a lifespan, the bus of a request, and the probes."""

    async def publish(request: Request) -> Response:
        await get_bus(request).publish(PLACED, an_event())
        return JSONResponse(get_bus(request).status)

    routes = [Route("/publish", publish, methods=["POST"]), Mount("/bus", bus_app(http_app))]
    with TestClient(Starlette(routes=routes, lifespan=bus_lifespan(shop))) as client:
        assert client.post("/publish").json() == "open"
        assert client.get("/bus/healthz").json()["status"] == "healthy"
    assert shop.handled == 1


def test_it_is_found() -> None:
    """The installed distribution is a plugin that is loaded and offers nothing to select."""
    (plugin,) = (plugin for plugin in discover().installed if plugin.name == "asgi")
    assert (plugin.status, plugin.distribution, plugin.offers) == ("loaded", "promenade-bus-asgi", ())
