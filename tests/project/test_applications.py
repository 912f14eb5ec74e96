"""The applications of the how-to pages, in their real servers."""

from __future__ import annotations

import ast
import inspect
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from support.served_pages import cells_of, get, post, served, write_files

FASTAPI = "how-to/use-with-fastapi.md"
FLASK = "how-to/use-with-flask.md"
NOTEBOOK = "how-to/use-in-scripts-and-notebooks.md"

UVICORN = r"Uvicorn running on (http://[\d.]+:\d+)"
GUNICORN = r"Listening at: (http://[\d.]+:\d+)"
FREE = "127.0.0.1:0"


@pytest.mark.long
@pytest.mark.once
def test_uvicorn_serves_the_application_and_drains_its_bus(tmp_path: Path) -> None:
    """The bus is open while uvicorn serves; at SIGTERM the events of answered requests are still handled."""
    write_files(FASTAPI, tmp_path)
    with served(tmp_path, "uvicorn", "shop:app", "--port", "0") as server:
        at = server.printed(UVICORN)[1]
        assert post(f"{at}/orders?total_cents=1250").status_code == 201
        server.printed(r"receipt: 12\.50")
        assert get(f"{at}/bus/readyz").json() == {"status": "ready"}
        assert post(f"{at}/baskets", json=[*range(100, 200)]).json() == 100
        assert server.stop() in (0, -signal.SIGTERM)
        assert server.log.count("receipt: 1.") == 100


@pytest.mark.long
@pytest.mark.once
def test_a_web_process_publishes_for_a_worker(tmp_path: Path) -> None:
    """A web process without subscriptions publishes what a worker in another process handles."""
    write_files(FASTAPI, tmp_path)
    with (
        served(tmp_path, "uvicorn", "web:app", "--port", "0") as web,
        served(tmp_path, "bus_core", "run", "worker:make_bus") as worker,
    ):
        at = web.printed(UVICORN)[1]
        assert post(f"{at}/orders?total_cents=1250").status_code == 201
        worker.printed(r"receipt: 12\.50")
        assert worker.stop() == 0
        web.stop()
        assert "receipt" not in web.log


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["without preload", "with preload"])
def test_gunicorn_opens_a_bus_in_each_worker(tmp_path: Path, preload: list[str]) -> None:
    """With the configuration of the page each worker has an open bus, and drains it at SIGTERM."""
    write_files(FLASK, tmp_path)
    workers = ["--workers", "2", "--threads", "2", *preload]
    with served(tmp_path, "gunicorn", "shop:app", "--bind", FREE, *workers) as server:
        at = server.printed(GUNICORN)[1]
        assert get(f"{at}/readyz").json()["status"] == "healthy"
        for _ in range(20):
            assert post(f"{at}/orders?total_cents=1250").status_code == 201
        assert server.stop() == 0
        assert server.log.count("receipt: 12.50") == 20
        assert "Traceback" not in server.log


@pytest.mark.long
@pytest.mark.once
def test_a_reload_of_gunicorn_takes_new_code(tmp_path: Path) -> None:
    """The configuration of the page imports the application in the worker, not in the master."""
    write_files(FLASK, tmp_path)
    with served(tmp_path, "gunicorn", "shop:app", "--bind", FREE, "--threads", "2") as server:
        at = server.printed(GUNICORN)[1]
        shop = tmp_path / "shop.py"
        shop.write_text(shop.read_text().replace("receipt:", "new receipt:"))
        assert get(f"{at}/readyz").status_code == 200
        server.signal(signal.SIGHUP)
        server.printed(r"(?s)Booting worker.*Booting worker")
        server.printed(r"Worker exiting")  # before or after the other has begun
        assert post(f"{at}/orders?total_cents=1250").status_code == 201
        server.printed(r"new receipt: 12\.50")


EARLY = """
from shop import app, make_bus

app.extensions["promenade-bus"] = make_bus()
app.extensions["promenade-bus"].start()
"""


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize(
    ("preload", "status"), [([], 201), (["--preload"], 500)], ids=["without preload", "with preload"]
)
def test_a_bus_that_is_opened_at_the_import(tmp_path: Path, preload: list[str], status: int) -> None:
    """It works without preload; with preload a request fails at once and the error says where to open it."""
    write_files(FLASK, tmp_path)
    (tmp_path / "early.py").write_text(EARLY)
    (tmp_path / "empty.py").write_text("")
    arguments = ["early:app", "--bind", FREE, "--config", "empty.py", *preload]
    with served(tmp_path, "gunicorn", *arguments) as server:
        at = server.printed(GUNICORN)[1]
        assert post(f"{at}/orders?total_cents=1250").status_code == status
        server.printed(r"receipt: 12\.50" if status == 201 else "BusForked: .* in post_worker_init")


async def test_the_cells_of_a_notebook_share_a_running_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each cell runs on a loop that is running already, as in Jupyter, and prints what the page shows."""
    write_files(NOTEBOOK, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    space: dict[str, Any] = {}
    try:
        for text, output in cells_of(NOTEBOOK):
            code = compile(text, NOTEBOOK, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            result = eval(code, space)
            if inspect.iscoroutine(result):
                await result
            assert capsys.readouterr().out == output
    finally:
        sys.modules.pop("sales", None)
