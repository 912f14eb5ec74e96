"""``promenade-bus config``: all faults at once, and the effective configuration without secrets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.distributions import Site

Run = Any
Config = Callable[[str], str]

FAULTY = """
bus:
  adapter: memory
  worker_pol_size: 3
  retry_attempts: 0
  memory: {dead_letters: many}
  middleware: [loging]
"""


def test_all_faults_are_reported_together(run: Run, config: Config) -> None:
    """Faults of the bus, of an adapter's options and of unknown names come in one list; status 1."""
    path = config(FAULTY)
    found = run.json("config", "check", path, status=1)
    assert found["source"] == path
    assert found["valid"] is False
    text = "\n".join(found["faults"])
    assert "unknown key 'worker_pol_size', did you mean 'worker_pool_size'? @ $.bus" in text
    assert "$.bus.retry_attempts" in text
    assert "$.bus.memory.dead_letters" in text
    assert "unknown middleware 'loging'; did you mean 'logging'?" in text
    output = run("config", "check", path)
    assert output.exit_code == 1
    assert output.output.startswith(f"{path}: {len(found['faults'])} faults\n  - ")


def test_infinity_is_no_number_of_json(run: Run, config: Config) -> None:
    """A number that JSON lacks is printed as a string, because strict readers refuse it otherwise."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    result = run(
        "config", "show", config("bus: {adapter: memory, redis: {x: .inf, y: [-.inf, .nan]}}"), "--json"
    )
    json.loads(result.stdout, parse_constant=refuse)
    assert '"inf"' in result.stdout


def test_a_plugin_that_prints_spoils_no_json(run: Run, site: Site) -> None:
    """A plugin's prints at import go to stderr."""
    site.install("promenade-bus-noisy", "print('hello')\n")
    result = run("plugins", "list", "--json")
    assert "noisy" in str(json.loads(result.stdout))
    assert "hello" in result.stderr


@pytest.mark.parametrize("text", ["", "app: {name: x}", "bus: [1", "- 1"])
def test_a_file_that_says_nothing_is_a_fault(run: Run, config: Config, text: str) -> None:
    """An empty file, a file without a bus section, and invalid YAML give status 1 and a fault."""
    found = run.json("config", "check", config(text), status=1)
    assert len(found["faults"]) == 1


def test_a_valid_file_passes(run: Run, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A valid file gives status 0; the environment variable may name it."""
    path = config("bus: {adapter: memory}")
    assert run("config", "check", path).output == f"{path}: valid\n"
    monkeypatch.setenv("PROMENADE_BUS_CONFIG", path)
    assert run.json("config", "check") == {"source": path, "valid": True, "faults": [], "warnings": []}


def test_an_order_that_defeats_a_middleware(run: Run, config: Config) -> None:
    """An order that defeats a member is valid; the warning names both, the reason and the remedy."""
    path = config(
        "bus: {adapter: memory, middleware: "
        "[{timeout: {seconds: 1}}, circuit-breaker, {rate-limit: {rate: 5}}]}"
    )
    found = run.json("config", "check", path)
    assert (found["valid"], found["faults"]) == (True, [])
    assert found["warnings"][0] == (
        "'timeout' must not be outside of 'circuit-breaker': it cancels slow attempts, and a cancelled "
        "attempt does not count as a failure; list 'timeout' after 'circuit-breaker' "
        "@ $.bus.middleware[0].timeout"
    )
    assert len(found["warnings"]) == 2
    assert run("config", "check", path).output.startswith(
        f"{path}: valid, 2 warnings\n  - 'timeout' must not"
    )


def test_no_file_is_a_usage_error(run: Run) -> None:
    """Without a file, and with one that does not exist, the status is 2."""
    assert run("config", "check").exit_code == 2
    assert run("config", "check", "missing.yaml").exit_code == 2
    assert run("config", "show").exit_code == 2


def test_the_effective_configuration_has_every_default(run: Run, config: Config) -> None:
    """``config show`` prints the settings that the bus uses: defaults, variables and durations resolved."""
    path = config("bus: {adapter: memory, retry_attempts: 7, middleware: [{timeout: {seconds: 90}}]}")
    shown = run.json("config", "show", path)["bus"]
    assert shown["worker_pool_size"] == 10
    assert shown["retry"]["attempts"] == 7
    assert shown["retry"]["max_delay"] == "10s"
    assert shown["middleware"]["consume"] == [{"timeout": {"seconds": "1m30s"}}]
    assert shown["memory"]["serialize"] is False
    assert yaml.safe_load(run("config", "show", path).output)["bus"] == shown


SOURCES = """\
app: {name: shop}
database:
  redis:
    addr: "${SHOP_ADDR:-localhost:6379}"
    password: "${SHOP_PASSWORD}"
    pool_size: 20
bus:
  adapter: redis
  buffer_size: "${SHOP_BUFFER}"
  retry_attempts: 7
  middleware:
    - logging
    - timeout: {seconds: 90}
  redis:
    prefix: shop
    password: "${SHOP_OWN:-}"
    pool_size: 5
"""


def test_each_value_has_its_origin(run: Run, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value is a default, or has its line, the variables in it, and the section that wins."""
    monkeypatch.setenv("SHOP_PASSWORD", "hunter2")
    monkeypatch.setenv("SHOP_BUFFER", "50")
    path = config(SOURCES)
    shown = run("config", "show", path).output
    assert "hunter2" not in shown
    origins = {}
    for line in shown.splitlines():
        value, mark, origin = line.partition("  # ")
        if mark:
            origins.setdefault(value.strip(), origin)
    assert origins["adapter: redis"] == "app.yaml:8"
    assert origins["service: shop"] == "app.yaml:1 as app.name"
    assert origins["buffer_size: 50"] == "app.yaml:9, ${SHOP_BUFFER}"
    assert origins["overflow_size: 100000"] == "default"
    assert origins["attempts: 7"] == "app.yaml:10 as bus.retry_attempts"
    assert origins["level: info"] == "default"
    assert origins["seconds: 1m30s"] == "app.yaml:13"
    assert origins["prefix: shop"] == "app.yaml:15"
    assert origins["addr: null"] == "from database.redis.addr"
    assert origins["password: null"] == "from database.redis.password"
    assert origins["addr: localhost:6379"] == "app.yaml:4, ${SHOP_ADDR} is not set"
    assert origins["password: '***'"] == "app.yaml:5, ${SHOP_PASSWORD}"
    assert origins["pool_size: 20"] == "app.yaml:6; overridden by bus.redis.pool_size"


def test_origins_are_for_programs_as_well(run: Run, config: Config) -> None:
    """The JSON has the origin of every value by its path."""
    path = config("bus: {adapter: memory, health: {timeout: '${SHOP_WAIT:-2s}'}}")
    shown = run.json("config", "show", path)
    assert shown["file"] == path
    assert shown["sources"]["$.bus.adapter"] == {"from": "file", "line": 1}
    assert shown["sources"]["$.bus.worker_pool_size"] == {"from": "default"}
    assert shown["sources"]["$.bus.health.timeout"] == {
        "from": "file",
        "line": 1,
        "variables": {"SHOP_WAIT": False},
    }


def test_a_faulty_file_is_not_shown(run: Run, config: Config) -> None:
    """Showing a faulty file lists its faults, with status 2."""
    result = run("config", "show", config(FAULTY))
    assert result.exit_code == 2
    assert "worker_pol_size" in result.output


def test_secrets_are_never_shown(
    run: Run, config: Config, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields marked secret, keys named like a secret, and URLs are masked in every output."""
    site.install(
        "promenade-bus-vault",
        """
        from typing import Annotated
        from bus_core import SECRET
        @attrs.frozen
        class Vault:
            url: str = ""
            password: str = ""
            combination: Annotated[str, SECRET] = ""
        @hookimpl
        def promenade_bus_adapters():
            return {"vault": Factory(Vault, lambda options, context: None)}
        """,
    )
    monkeypatch.setenv("VAULT_PASSWORD", "hunter2-a")
    path = config(
        """
        bus:
          adapter: vault
          vault:
            url: "redis://me:hunter2-b@host/0"
            password: "${VAULT_PASSWORD}"
            combination: hunter2-c
        """
    )
    for arguments in (
        ["config", "show", path],
        ["config", "show", path, "--json"],
        ["config", "check", path],
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert "hunter2" not in result.output
    assert run.json("config", "show", path)["bus"]["vault"] == {
        "url": "redis://***@host/0",
        "password": "***",
        "combination": "***",
    }


@pytest.mark.parametrize("name", ["app.sqlite-dev.yaml", "app.postgres-dev.yaml"])
def test_the_files_of_the_repository_are_valid(run: Run, name: str) -> None:
    """The configurations of development pass the check."""
    root = next(parent for parent in Path(__file__).parents if (parent / "bus_core").is_dir())
    assert run("config", "check", str(root / "config" / name)).exit_code == 0
