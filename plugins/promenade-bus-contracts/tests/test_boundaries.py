"""``contracts verify`` and the fixture ``context_boundaries``, on small projects."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from bus_core import BusError, ConfigError
from promenade_bus_contracts.boundaries import context_of, violations
from promenade_bus_contracts.boundary_settings import read_boundaries
from promenade_bus_contracts.command import contracts

pytestmark = pytest.mark.once

SECTION = """
    [tool.promenade-bus.boundaries.contexts.sales]
    code = "shop.sales"
    contract = "sales_contract"

    [tool.promenade-bus.boundaries.contexts.stock]
    code = ["shop.stock"]
    contract = ["stock_contract"]
"""

SOUND = {
    "pyproject.toml": SECTION,
    "src/shop/__init__.py": "",
    "src/shop/main.py": "from shop.sales import orders\nfrom shop import stock\n",
    "src/shop/sales/__init__.py": "",
    "src/shop/sales/orders.py": "from stock_contract import RESERVED\nfrom . import prices\n",
    "src/shop/sales/prices.py": "import sales_contract._tables\nimport json\nimport shopping\n",
    "src/shop/stock/__init__.py": "from sales_contract.events import OrderPlaced\n",
    "src/sales_contract/__init__.py": "from sales_contract._tables import RATES\n",
    "src/sales_contract/_tables.py": "RATES = ()\n",
    "src/sales_contract/events.py": "from stock_contract import RESERVED\n",
    "src/stock_contract/__init__.py": "RESERVED = None\n",
}


def write(directory: Path, **changes: str) -> Path:
    files = {**SOUND, **{name.replace("__DOT__", "."): text for name, text in changes.items()}}
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return directory / "pyproject.toml"


def test_a_sound_project_passes(tmp_path: Path) -> None:
    """Contracts, own packages, and packages of no context may be imported."""
    assert violations(write(tmp_path)) == []


CODE = "the context 'sales' imports {}, the code of 'stock'; import its contract (stock_contract)"
PRIVATE = "imports {}, a private part of the contract of 'stock'"


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("import shop.stock", 1, CODE.format("shop.stock")),
        ("import os, shop.stock.shelves as them", 1, CODE.format("shop.stock.shelves")),
        ("from shop import stock", 1, CODE.format("shop.stock")),
        ("from shop.stock.shelves import *", 1, CODE.format("shop.stock.shelves")),
        ("from .. import stock", 1, CODE.format("shop.stock")),
        ("from ..stock import shelves", 1, CODE.format("shop.stock.shelves")),
        ("def late():\n    import shop.stock", 2, CODE.format("shop.stock")),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shop.stock import Shelf",
            3,
            CODE.format("shop.stock.Shelf"),
        ),
        (
            "import importlib\nimportlib.import_module('shop.stock')",
            2,
            CODE.format("shop.stock"),
        ),
        ("__import__('shop.stock')", 1, CODE.format("shop.stock")),
        ("from stock_contract import _RATES", 1, PRIVATE.format("stock_contract._RATES")),
        ("import stock_contract._tables", 1, PRIVATE.format("stock_contract._tables")),
        ("from stock_contract._tables import RATES", 1, PRIVATE.format("stock_contract._tables.RATES")),
        ("def broken(:", 1, "cannot be parsed"),
    ],
)
def test_an_import_across_a_boundary_is_found(tmp_path: Path, text: str, line: int, told: str) -> None:
    """Every way to import another context's code, or a private part of its contract, is a violation."""
    file = write(tmp_path, **{"src/shop/sales/orders.py": text})
    (found,) = violations(file)
    assert (found.path, found.line) == ("src/shop/sales/orders.py", line)
    assert told in found.text


def test_a_contract_imports_no_code(tmp_path: Path) -> None:
    """A contract imports neither the code of its own context nor private parts of another contract."""
    text = "import shop.sales\nfrom stock_contract import _RATES\n"
    found = violations(write(tmp_path, **{"src/sales_contract/events.py": text}))
    assert [violation.text.partition(";")[0] for violation in found] == [
        "the contract of 'sales' imports shop.sales, the code of 'sales'",
        "the contract of 'sales' imports stock_contract._RATES, a private part of the contract of 'stock'",
    ]


def test_the_public_part_may_be_a_list(tmp_path: Path) -> None:
    """With ``public``, other contexts import only from these modules."""
    public = f"{SECTION}\n    public = 'stock_contract'\n"
    text = (
        "from stock_contract import RESERVED\nfrom stock_contract import rates\nimport stock_contract.rates\n"
    )
    file = write(
        tmp_path,
        **{
            "pyproject.toml": public,
            "src/stock_contract/rates.py": "",
            "src/shop/sales/orders.py": text,
        },
    )
    assert [violation.line for violation in violations(file)] == [2, 3]


def test_a_package_inside_of_another_one_is_a_context_of_its_own(tmp_path: Path) -> None:
    """The innermost package decides: a context may be inside of the package of another one."""
    section = """
        boundaries:
          source: src
          contexts:
            shop: {code: shop}
            stock: {code: [shop.stock], contract: stock_contract}
    """
    write(tmp_path, **{"boundaries.yaml": section, "src/shop/stock/__init__.py": "import shop.main\n"})
    found = violations(tmp_path / "boundaries.yaml")
    assert [(violation.path, violation.line) for violation in found] == [
        ("src/shop/main.py", 2),
        ("src/shop/stock/__init__.py", 1),
    ]
    boundaries = read_boundaries(tmp_path / "boundaries.yaml")
    names = ["shop.stock.shelves.refill", "shop.main", "stock_contract.x", "os"]
    assert [context_of(name, boundaries) for name in names] == ["stock", "shop", None, None]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.toml", "", "the section is missing; name there the packages of each context @ $.tool.promenade"),
        (
            "a.yaml",
            "other: 1",
            "the section is missing; name there the packages of each context @ $.boundaries",
        ),
        ("a.yaml", "boundaries: {contexts: {a: {cod: x}}}", "unknown key 'cod', did you mean 'code'?"),
        ("a.yaml", "boundaries: {contexts: {a: {}}}", "a context needs 'code' or 'contract' @ $.boundaries"),
        ("a.yaml", "boundaries: {contexts: []}", "expected a mapping from contexts to their packages"),
        ("a.yaml", "boundaries: {contexts: {a: {code: 1}}}", "expected a name, or a list of names"),
        ("a.yaml", "boundaries: {contexts: {a: {code: nowhere}}}", "no package 'nowhere' in"),
        ("a.yaml", "boundaries: [", "the file cannot be read"),
    ],
)
def test_a_wrong_section_is_told(tmp_path: Path, name: str, text: str, told: str) -> None:
    """A fault of the section is an error with its path, and never a check that finds nothing."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        violations(tmp_path / name)
    assert told in str(caught.value)


def test_verify_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command lists the violations, prints JSON for programs, and exits with 1."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    result = CliRunner().invoke(contracts, ["verify"], catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, "no import crosses a boundary\n")
    (tmp_path / "src/shop/sales/orders.py").write_text("import shop.stock\n")
    result = CliRunner().invoke(contracts, ["verify", "pyproject.toml"], catch_exceptions=False)
    assert result.exit_code == 1
    assert result.output.startswith("src/shop/sales/orders.py:1: the context 'sales' imports shop.stock")
    assert result.output.endswith("1 import across boundaries\n")
    result = CliRunner().invoke(contracts, ["verify", "--json"], catch_exceptions=False)
    assert [found["line"] for found in json.loads(result.stdout)] == [1]
    with pytest.raises(BusError, match="the file cannot be read"):
        CliRunner().invoke(contracts, ["verify", "nothing.toml"], catch_exceptions=False)


def test_the_fixture(pytester: pytest.Pytester) -> None:
    """A test that uses the fixture passes in a sound project, and fails with every violation in another."""
    write(pytester.path)
    pytester.makepyfile(
        """
        def test_contexts_are_apart(context_boundaries):
            assert [*context_boundaries.contexts] == ["sales", "stock"]
        """
    )
    arguments = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")
    pytester.runpytest_inprocess(*arguments).assert_outcomes(passed=1)
    (pytester.path / "src/shop/sales/orders.py").write_text("import shop.stock\n")
    result = pytester.runpytest_inprocess(*arguments)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*src/shop/sales/orders.py:1: the context 'sales' imports shop.stock*"])
    write(pytester.path, **{"pyproject.toml": "", "boundaries.toml": SECTION})
    options = ("-o", "promenade_bus_boundaries=boundaries.toml")
    pytester.runpytest_inprocess(*arguments, *options).assert_outcomes(passed=1)
