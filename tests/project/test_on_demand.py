"""Packages whose names are imported when they are used: see bus_core/on_demand.py."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]


def packages() -> dict[str, ast.Module]:
    """Every package of the checkout that calls on_demand.names, by the name it is imported by."""
    sources = [
        ROOT / "bus_core",
        *ROOT.glob("plugins/*/src/*"),
        *ROOT.glob("contexts/*/src/*"),
        ROOT / "examples/crm",
    ]
    found = {}
    for source in sources:
        for path in source.rglob("__init__.py"):
            text = path.read_text(encoding="utf-8")
            if "= on_demand.names(" in text:
                name = ".".join(path.parent.relative_to(source.parent).parts)
                found[name] = ast.parse(text)
    return found


PACKAGES = packages()
PLUGINS = {
    name for name, tree in PACKAGES.items() if "__getattr__, _ =" in ast.unparse(tree).replace("(", "")
}
"""Those with hooks: dir() does not list what they have on demand."""

by_package = pytest.mark.parametrize("name", PACKAGES)


def for_type_checkers(name: str) -> Iterator[tuple[str, str]]:
    """Pairs of module and name: the imports under TYPE_CHECKING."""
    for block in PACKAGES[name].body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "typing.TYPE_CHECKING":
            for statement in block.body:
                assert isinstance(statement, ast.ImportFrom), ast.unparse(statement)
                for alias in statement.names:
                    yield f"{statement.module}", alias.name


def for_python(name: str) -> Iterator[tuple[str, str]]:
    """Pairs of module and name: the table that on_demand.names gets."""
    for node in ast.walk(PACKAGES[name]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "on_demand.names":
            for module, names in table_in(node.args[1]).items():
                for offered in names.split():
                    yield f"{name}.{module}", offered


def table_in(node: ast.expr) -> dict[str, str]:
    """The value of a dict, or of a union of them, which is how a long one fits into few lines."""
    if isinstance(node, ast.BinOp):
        return table_in(node.left) | table_in(node.right)
    table: dict[str, str] = ast.literal_eval(node)
    return table


def test_the_core_is_on_demand() -> None:
    """The core is such a package, so the tests below have something to look at."""
    assert "bus_core" in PACKAGES


@by_package
def test_both_lists_agree(name: str) -> None:
    """Type checkers see the same names in the same modules as Python."""
    assert sorted(for_type_checkers(name)) == sorted(for_python(name))


@by_package
def test_every_listed_name_is_exported(name: str) -> None:
    """A name on demand is in __all__, none has the name of a module, and each is that of its module."""
    package = import_module(name)
    for module, offered in for_python(name):
        assert offered in package.__all__
        assert not module.startswith(f"{name}.{offered}.")
        assert getattr(package, offered) is getattr(import_module(module), offered)


@by_package
def test_type_checkers_do_not_see_the_function(name: str) -> None:
    """__getattr__ is hidden from type checkers: with it they would accept every name."""
    (call,) = (
        node
        for block in PACKAGES[name].body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "typing.TYPE_CHECKING"
        for node in block.orelse
    )
    assert isinstance(call, ast.Assign)
    second = "_" if name in PLUGINS else "__dir__"
    assert ast.unparse(call.targets[0]) == f"(__getattr__, {second})"


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_looking_for_hooks_imports_nothing(name: str) -> None:
    """Looking at every name that dir() lists, as discovery does, imports none of the names on demand."""
    offered = {name for _, name in for_python(name)}
    run(
        f"import {name} as package\n"
        "for name in dir(package): getattr(package, name)\n"
        f"assert not {offered} & {{*vars(package)}}"
    )


@pytest.mark.parametrize("name", sorted(PACKAGES.keys() - PLUGINS))
def test_dir_lists_what_is_not_imported_yet(name: str) -> None:
    """dir() of a package that was just imported has every name of __all__."""
    run(f"import {name} as package\nassert set(package.__all__) <= set(dir(package))")


@by_package
def test_star(name: str) -> None:
    """A star import brings every name of __all__."""
    run(f"from {name} import *\nimport {name} as package\nassert set(package.__all__) <= set(globals())")


# --- the function itself ----------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a module inside a package, and a broken one; the module counts its imports."""
    root = tmp_path / "shop"
    (root / "events").mkdir(parents=True)
    (root / "__init__.py").write_text(
        "from bus_core import on_demand\n"
        "BESIDE = 1\n"
        "__getattr__, __dir__ = on_demand.names("
        "__name__, {'events.base': 'Paid Placed', 'broken': 'Broken', 'wrong': 'Missing'})\n"
    )
    (root / "events/__init__.py").write_text("")
    (root / "events/base.py").write_text("class Paid: ...\nclass Placed: ...\n")
    (root / "broken.py").write_text("import no_such_distribution\n")
    (root / "wrong.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return root


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("import shop; print('shop.events' in sys.modules)", "False"),
        ("import shop; print(shop.Paid.__module__)", "shop.events.base"),
        ("from shop import Paid, BESIDE; print(Paid.__name__, BESIDE)", "Paid 1"),
        ("import shop; shop.Paid; print('Paid' in vars(shop), 'Placed' in vars(shop))", "True False"),
        ("import shop; print(shop.events.__name__)", "shop.events"),
        (
            "import shop; print([name for name in dir(shop) if name[0].isupper()])",
            "['BESIDE', 'Broken', 'Missing', 'Paid', 'Placed']",
        ),
        ("import shop; print('events' in dir(shop), 'base' in dir(shop))", "True False"),
    ],
    ids=["nothing at import", "attribute", "from", "kept", "module", "dir", "dir has modules"],
)
def test_a_name_is_imported_when_it_is_used(program: str, printed: str) -> None:
    """Importing the package imports none of its modules; using a name imports its module, once."""
    assert run(f"import sys\n{program}").strip() == printed


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("program", "error", "text"),
    [
        ("shop.Pay", AttributeError, "module 'shop' has no attribute 'Pay'"),
        ("shop.Broken", ModuleNotFoundError, "No module named 'no_such_distribution'"),
        ("hasattr(shop, 'Broken')", ModuleNotFoundError, "No module named 'no_such_distribution'"),
        ("shop.Missing", AttributeError, "module 'shop.wrong' has no attribute 'Missing'"),
    ],
    ids=["unknown", "broken module", "broken module, hasattr", "not in its module"],
)
def test_an_error_is_that_of_python(program: str, error: type[Exception], text: str) -> None:
    """An unknown name, and a module that cannot be imported, are told as Python tells them."""
    code = f"import shop\ntry:\n    {program}\nexcept {error.__name__} as error:\n    print(error)"
    assert run(code).strip() == text


@pytest.mark.usefixtures("shop")
def test_a_near_name_is_suggested() -> None:
    """Python suggests the nearest name of those that are not imported yet."""
    done = subprocess.run(
        [sys.executable, "-c", "import shop; shop.Plaed"], capture_output=True, text=True, timeout=60
    )
    assert "Did you mean: 'Placed'?" in done.stderr
