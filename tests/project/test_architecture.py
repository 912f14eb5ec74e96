"""The rules that keep the core, the plugins, the contexts and the example apart.

`violations(root)` reads the files of a checkout, imports nothing, and returns every broken rule at once.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]

# For each distribution with rooms: what a room (a package, or a module beside it) may import of the others.
# Imports for type checkers count. docs/architecture.md shows the table of the core.
ROOMS: dict[str, dict[str, set[str]]] = {
    "bus_core": {
        "on_demand": set(),
        "errors": set(),
        "runtime": {"on_demand", "errors"},
        "events": {"on_demand", "errors", "runtime"},
        "config": {"on_demand", "errors", "runtime", "events"},
        "abc": {"errors", "runtime", "events"},
        "retry": {"errors", "config"},
        "serialization": {"on_demand", "errors", "runtime", "events", "config", "abc"},
        "adapters": {"on_demand", "errors", "runtime", "events", "abc"},
        "plugins": {"on_demand", "errors", "events", "config", "abc", "retry", "serialization"},
        "dispatch": {"on_demand", "errors", "runtime", "events", "abc"},
        "transport": {"on_demand", "errors", "runtime", "events", "abc", "dispatch"},
        "bus": {
            "on_demand",
            "errors",
            "runtime",
            "events",
            "config",
            "abc",
            "retry",
            "plugins",
            "dispatch",
            "transport",
        },
        "__init__": {
            "on_demand",
            "errors",
            "runtime",
            "events",
            "config",
            "abc",
            "retry",
            "plugins",
            "dispatch",
            "bus",
        },
        "__main__": set(),
    },
    "promenade_bus_redis": {
        "addresses": set(),
        "config": {"addresses"},
        "server": {"addresses", "config"},
        "verdicts": {"server"},
        "streams": {"addresses", "config", "server"},
        "pubsub": {"addresses", "config", "server", "verdicts"},
        "health": {"config", "verdicts", "server", "streams", "pubsub"},
        "groups_command": {"streams", "pubsub"},
        "store": {"config", "verdicts", "server"},
        "factories": {"config", "server", "streams", "pubsub", "health", "store"},
        "__init__": {"factories", "groups_command"},
    },
    "promenade_bus_outbox": {
        "errors": set(),
        "names": set(),
        "dialects": {"errors"},
        "connection": {"errors", "names", "dialects"},
        "drivers": {"errors", "names", "dialects", "connection"},
        "rows": {"names", "dialects", "connection"},
        "leases": {"names", "connection"},
        "status": {"names", "dialects", "connection", "rows"},
        "relay": {"connection", "rows", "leases"},
        "health": {"status"},
        "outbox_relay": {"errors", "connection", "rows", "status", "relay", "health"},
        # From here on with SQLAlchemy.
        "tables": set(),
        "database": {"errors", "names", "dialects", "connection", "tables"},
        "pending": {"errors", "names", "tables", "database"},
        "outbox": {"errors", "tables", "database", "pending", "outbox_relay"},
        "inbox": {"errors", "dialects", "connection", "tables", "database"},
        # These import what they need when it is used.
        "command": {
            "connection",
            "drivers",
            "errors",
            "tables",
            "database",
            "rows",
            "status",
            "outbox_relay",
        },
        "exports": {"errors"},
        "__init__": {
            "connection",
            "drivers",
            "errors",
            "inbox",
            "outbox",
            "outbox_relay",
            "status",
            "tables",
            "exports",
            "health",
            "command",
        },
    },
}

# Imports by name at run time that are meant: `python -m bus_core` hands over to the command line.
ALLOWED_DYNAMIC_IMPORTS = {("bus_core.__main__", "promenade_bus_cli")}

# Type checkers bring its stubs, so that an import for them needs no dependency.
BROUGHT_BY_TYPE_CHECKERS = {"typing_extensions"}

PLUGIN_MODULE_LINES = 40

# Groups of other tools in which a member may have entry points as well, and who: each is read in every run
# of that tool, wherever the distribution is installed.
OTHER_ENTRY_POINTS = {"promenade-bus-testing": {"pytest11"}}

# Spelled in pieces, so that this file keeps its own rule.
MACHINE_PATHS = re.compile(
    "|".join(["/wo" + r"rk/main\b", "/ro" + "ot/", "/ho" + r"me/\w+/", "/Us" + r"ers/\w+/"])
)
REGISTRY_HOSTS = re.compile("|".join(["py" + r"pi\.org", "python" + r"hosted\.org"]))
OUTSIDE = re.compile(r"(?:\.\./)+shared\b")

PROJECT_KEYS = {
    "name",
    "version",
    "description",
    "readme",
    "requires-python",
    "license",
    "authors",
    "keywords",
    "classifiers",
    "dependencies",
    "optional-dependencies",
    "scripts",
    "entry-points",
}


@dataclass(frozen=True)
class Import:
    """One imported name, wherever in the file the import stands."""

    name: str
    line: int
    dynamic: bool = False
    for_types: bool = False

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """One Python file and the name it is imported by."""

    path: Path
    name: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"), str(self.path))

    @cached_property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def imports(self) -> list[Import]:
        typing_only = {
            id(node)
            for block in ast.walk(self.tree)
            if isinstance(block, ast.If)
            and ast.unparse(block.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
            for statement in block.body
            for node in ast.walk(statement)
        }
        return [
            replace(found, for_types=id(node) in typing_only)
            for node in ast.walk(self.tree)
            for found in self._imports_of(node)
        ]

    def _imports_of(self, node: ast.AST) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, node.lineno)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = module or ""
                if level:
                    parents = self.package.split(".")
                    base = ".".join([*parents[: len(parents) - level + 1], *filter(None, [module])])
                for alias in names:
                    yield Import(f"{base}.{alias.name}", node.lineno)
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called),
                args=[ast.Constant(value=str(name)), *_],
            ):
                if called in {"import_module", "__import__"} and not name.startswith("."):
                    yield Import(name, node.lineno, dynamic=True)
            case _:
                pass


class Distribution:
    """One directory with a pyproject.toml and the package it ships."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self.directory = directory
        self.where = directory.relative_to(root).as_posix()
        self.metadata: dict[str, Any] = tomllib.loads(
            (directory / "pyproject.toml").read_text(encoding="utf-8")
        )
        self.project: dict[str, Any] = self.metadata.get("project", {})
        self.name: str = self.project.get("name", directory.name)
        short = re.sub("^promenade-(bus|context)-", "", self.name)
        self.entry_point = short
        self.is_context = directory.parent.name == "contexts"
        self.package = f"promenade_{short}" if self.is_context else self.name.replace("-", "_")
        self.source = directory / "src" / self.package
        self.is_example = directory == root / "examples"
        if directory == root:
            self.package, self.source = "bus_core", root / "bus_core"
        elif self.is_example:
            self.package, self.entry_point, self.source = "crm", "crm", directory / "crm"

    @cached_property
    def modules(self) -> list[Module]:
        return modules(self.source, self.package)

    @cached_property
    def requirements(self) -> list[str]:
        optional: dict[str, list[str]] = self.project.get("optional-dependencies", {})
        return [
            *self.project.get("dependencies", []),
            *(line for lines in optional.values() for line in lines),
        ]

    def entry_modules(self) -> Iterator[Path]:
        """Yield the files that the entry points in the group of the bus lead to, there or not."""
        points: dict[str, str] = self.project.get("entry-points", {}).get("promenade_bus", {})
        for value in points.values():
            parts = value.partition(":")[0].split(".")[1:]
            yield self.source.joinpath(*parts).with_suffix(".py") if parts else self.source / "__init__.py"

    def declared_packages(self) -> set[str]:
        """Return the top-level packages that the declared dependencies bring."""
        found: set[str] = set()
        installed = installed_packages()
        for requirement in self.requirements:
            name = normalized(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])
            found.add(re.sub("^promenade_context_", "promenade_", name.replace("-", "_")))
            found |= {top for top, names in installed.items() if name in map(normalized, names)}
        return found


@cache
def installed_packages() -> Mapping[str, list[str]]:
    return packages_distributions()


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def modules(directory: Path, package: str) -> list[Module]:
    found: list[Module] = []
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(directory).with_suffix("").parts
        found.append(Module(path, ".".join([package, *(part for part in parts if part != "__init__")])))
    return found


class Tree:
    """A checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.core = Distribution(root, root)
        self.plugins = self._members("plugins")
        self.contexts = self._members("contexts")
        self.members = [*self.plugins, *self.contexts, *self._at("examples")]
        self.distributions = [self.core, *self.members]

    def _members(self, group: str) -> list[Distribution]:
        return self._at(f"{group}/*")

    def _at(self, pattern: str) -> list[Distribution]:
        found = sorted(self.root.glob(f"{pattern}/pyproject.toml"))
        return [Distribution(self.root, path.parent) for path in found]

    def at(self, module: Module, line: int) -> str:
        return f"{module.path.relative_to(self.root).as_posix()}:{line}"

    def files(self) -> Iterable[Path]:
        """Return the files that are, or are about to be, committed."""
        if (self.root / ".git").exists():
            command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
            listed = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True).stdout
            return [path for name in listed.split("\0") if name and (path := self.root / name).is_file()]
        return [path for path in sorted(self.root.rglob("*")) if path.is_file()]


def imports_are_allowed(tree: Tree) -> Iterator[str]:
    """Core, plugins and contexts import the standard library, what they declare, and nothing sideways."""
    plugin_packages = {member.package for member in tree.plugins}
    context_packages = {member.package for member in tree.contexts}
    for distribution in tree.distributions:
        declared = distribution.declared_packages()
        allowed = {distribution.package} | set(sys.stdlib_module_names)
        if distribution is tree.core:
            allowed |= declared - plugin_packages - context_packages
            kind = "the core"
        elif distribution.is_context:
            allowed |= {"bus_core"} | (declared - plugin_packages)
            kind = "a context's contract package"
        else:
            allowed |= {"bus_core"} | declared
            kind = "the example" if distribution.is_example else "a plugin"
        for module in distribution.modules:
            for found in module.imports:
                if found.top in allowed or (
                    found.dynamic and (module.name, found.name) in ALLOWED_DYNAMIC_IMPORTS
                ):
                    continue
                if found.for_types and found.top in BROUGHT_BY_TYPE_CHECKERS:
                    continue
                at = tree.at(module, found.line)
                if found.top in plugin_packages | context_packages | {"examples", "crm"}:
                    yield f"{at}: {kind} must not import {found.name} ({distribution.name})"
                else:
                    yield f"{at}: {found.name} is not declared in the dependencies of {distribution.name}"


def example_contexts_are_apart(tree: Tree) -> Iterator[str]:
    """The code of one context in the example never imports the code of another."""
    crm = tree.root / "examples" / "crm"
    contexts = {init.parent.name for init in crm.glob("*/__init__.py")}
    for context in sorted(contexts):
        for module in modules(crm / context, f"examples.crm.{context}"):
            for found in module.imports:
                match found.name.removeprefix("examples.").split("."):
                    case ["crm", other, *_] if other in contexts - {context}:
                        yield (
                            f"{tree.at(module, found.line)}: the context {context} must not import the code"
                            f" of {other}; import its contract package, as promenade_{other}"
                        )
                    case _:
                        pass


Graph = dict[str, dict[str, str]]
"""For each module what it imports of its own distribution, with a place where it does."""


def graph_of(tree: Tree, distribution: Distribution) -> Graph:
    """The imports between the modules of one distribution, those for type checkers included."""
    names = {module.name for module in distribution.modules}
    graph: Graph = {}
    for module in distribution.modules:
        edges = graph.setdefault(module.name, {})
        for found in module.imports:
            target = found.name
            while target and target not in names:
                target = target.rpartition(".")[0]
            if target and target != module.name:
                edges.setdefault(target, tree.at(module, found.line))
    return graph


def rooms_are_one_way(tree: Tree) -> Iterator[str]:
    """A room imports only the rooms that ROOMS grants it."""
    for distribution in tree.distributions:
        table = ROOMS.get(distribution.package)
        if table is None:
            continue
        unknown: set[str] = set()
        for importer, edges in sorted(graph_of(tree, distribution).items()):
            room = room_of(importer)
            if room not in table:
                if room not in unknown:
                    unknown.add(room)
                    yield (
                        f"{distribution.package}/{room}: not in ROOMS; say there what it may import,"
                        " or put it into a room"
                    )
                continue
            for target, at in edges.items():
                other = room_of(target)
                if other != room and other not in table[room]:
                    yield f"{at}: {room} must not import {other} ({importer} imports {target})"


def room_of(module: str) -> str:
    """The room of a module: the package or module below the distribution's package."""
    _, *below = module.split(".")
    return below[0] if below else "__init__"


def nothing_imports_in_circles(tree: Tree) -> Iterator[str]:
    """No modules of one distribution import each other, directly or through others."""
    for distribution in tree.distributions:
        yield from cycles(distribution.package, graph_of(tree, distribution))


def cycles(package: str, graph: Graph) -> Iterator[str]:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> Iterator[str]:
        if name in path:
            circle = (each.removeprefix(f"{package}.") for each in [*path[path.index(name) :], name])
            yield f"{package}: import cycle {' -> '.join(circle)}"
        elif name not in done:
            for target in graph.get(name, {}):
                yield from visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        yield from visit(name, [])


def faces_of(tree: Tree) -> dict[str, set[str]]:
    """The rooms of the core that others may import from, each with the names in its ``__all__``."""
    return {
        module.name: names
        for module in tree.core.modules
        if module.path.name == "__init__.py" or room_of(module.name) in {"abc", "errors"}
        if (names := listed_names(module))
    }


def listed_names(module: Module) -> set[str]:
    for node in module.tree.body:
        if assigns_all(node) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            names: list[str] = ast.literal_eval(node.value)
            return set(names)
    return set()


def members_use_the_faces(tree: Tree) -> Iterator[str]:
    """Plugins, contexts and the example import from the core only what a face of it lists."""
    faces = faces_of(tree)
    for member in tree.members:
        for module in member.modules:
            for found in module.imports:
                face, _, name = found.name.rpartition(".")
                if found.top != "bus_core" or found.name in faces or name in faces.get(face, ()):
                    continue
                if found.name == "bus_core.on_demand":
                    continue
                yield (
                    f"{tree.at(module, found.line)}: {found.name} is private to the core;"
                    " a face (bus_core, bus_core.abc, or a room's __init__) has to list it"
                )


def packages_are_complete(tree: Tree) -> Iterator[str]:
    """Every distribution ships one typed package whose public names are a list."""
    for distribution in tree.distributions:
        init = distribution.source / "__init__.py"
        where = distribution.source.relative_to(tree.root).as_posix()
        if not init.is_file():
            yield f"{where}: {distribution.name} has no package {distribution.package}"
            continue
        if not (distribution.source / "py.typed").is_file():
            yield f"{where}: {distribution.name} has no py.typed"
        module = Module(init, distribution.package)
        if not any(assigns_all(node) for node in module.tree.body):
            yield f"{where}/__init__.py: {distribution.name} has no explicit __all__"


def assigns_all(node: ast.stmt) -> bool:
    match node:
        case ast.Assign(targets=[ast.Name(id="__all__")]) | ast.AnnAssign(target=ast.Name(id="__all__")):
            return True
        case _:
            return False


def plugins_are_light(tree: Tree) -> Iterator[str]:
    """The module that discovery asks for offers holds hook implementations only."""
    for plugin in tree.plugins:
        for path in plugin.entry_modules():
            if not path.is_file():
                continue
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > PLUGIN_MODULE_LINES:
                yield (
                    f"{path.relative_to(tree.root).as_posix()}: {lines} lines, more than"
                    f" {PLUGIN_MODULE_LINES}; keep the hook implementations and move the rest"
                )


def members_are_plain(tree: Tree) -> Iterator[str]:
    """A member's pyproject.toml says what it is, and one plugin of the bus; the settings are the root's."""
    for group in ("plugins", "contexts"):
        for directory in sorted(tree.root.glob(f"{group}/*/")):
            if not (directory / "pyproject.toml").is_file() and any(directory.rglob("*.py")):
                yield f"{directory.relative_to(tree.root).as_posix()}: has no pyproject.toml"
    for member in tree.members:
        at = f"{member.where}/pyproject.toml"
        expected = member.directory.name
        if member.is_context:
            expected = f"promenade-context-{expected}"
        elif member.is_example:
            expected = "promenade-example-crm"
        if member.name != expected:
            yield f"{at}: the name is {member.name}, by its directory it is {expected}"
        for path in sorted(set(table_paths(member.metadata))):
            yield f"{at}: {path} does not belong here; settings are shared, in the root's pyproject.toml"
        groups: dict[str, dict[str, str]] = member.project.get("entry-points", {})
        points = [
            (group, name, value)
            for group, named in groups.items()
            if group not in OTHER_ENTRY_POINTS.get(member.name, ())
            for name, value in named.items()
        ]
        match points:
            case [("promenade_bus", member.entry_point, value)] if value.partition(".")[0] == member.package:
                pass
            case _:
                yield (
                    f"{at}: has the entry points {points}, must have the one {member.entry_point!r} in the"
                    f" group 'promenade_bus', a module of {member.package}"
                )
        if not any(re.match(r"promenade-bus\W", requirement) for requirement in member.requirements):
            yield f"{at}: does not depend on promenade-bus"
        for requirement in member.requirements:
            if requirement.startswith("promenade-") and not re.fullmatch(
                r"[a-z-]+>=[\d.]+,<[\d.]+", requirement
            ):
                yield f"{at}: {requirement!r} must be a range, as in 'promenade-bus>=0.1,<0.2'"


def table_paths(metadata: dict[str, Any]) -> Iterator[str]:
    """Yield the dotted names of what a member's pyproject.toml must not hold."""
    yield from (key for key in metadata if key not in {"build-system", "project", "tool"})
    yield from (f"project.{key}" for key in metadata.get("project", {}) if key not in PROJECT_KEYS)
    yield from (f"tool.{key}" for key in metadata.get("tool", {}) if key != "hatch")
    hatch = metadata.get("tool", {}).get("hatch", {})
    if hatch and set(hatch.get("build", {}).get("targets", {}).get("wheel", {})) != {"packages"}:
        yield "tool.hatch (other than build.targets.wheel.packages)"


def files_name_no_machine(tree: Tree) -> Iterator[str]:
    """No file has a path of one machine, of a directory outside, or of a registry, or the mark of a merge."""
    for path in tree.files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            at = f"{path.relative_to(tree.root).as_posix()}:{number}"
            if line.startswith(("<<<<<<" + "< ", ">>>>>>" + "> ")):
                yield f"{at}: is the mark of a merge that is not done"
            if found := MACHINE_PATHS.search(line):
                yield f"{at}: names a path of one machine, {found.group()!r}"
            if found := REGISTRY_HOSTS.search(line):
                yield f"{at}: names the host of a package registry, {found.group()!r}"
            for found in OUTSIDE.finditer(line):
                target = (path.parent / found.group()).resolve()
                if not (target.exists() and target.is_relative_to(tree.root.resolve())):
                    yield f"{at}: refers to {found.group()!r}, which is outside the repository"


RULES: list[Callable[[Tree], Iterator[str]]] = [
    imports_are_allowed,
    example_contexts_are_apart,
    rooms_are_one_way,
    nothing_imports_in_circles,
    members_use_the_faces,
    packages_are_complete,
    plugins_are_light,
    members_are_plain,
    files_name_no_machine,
]


def violations(root: Path) -> list[str]:
    """Return every broken rule of the checkout at root."""
    tree = Tree(root)
    return [violation for rule in RULES for violation in rule(tree)]


def test_the_repository_keeps_its_architecture() -> None:
    """Every rule holds for this checkout; a failure lists all violations together."""
    found = violations(ROOT)
    assert not found, "\n".join([f"{len(found)} violations", *found])


# The checker itself: a small good tree, and for each rule a way to break it.

MEMBER = """
[build-system]
requires = ["hatchling"]
[project]
name = "{name}"
version = "0.1.0"
dependencies = ["click>=8", "promenade-bus>=0.1,<0.2"{more}]
[project.entry-points.promenade_bus]
{entry} = "{package}"
[tool.hatch.build.targets.wheel]
packages = ["src/{package}"]
"""

GOOD_TREE = {
    "pyproject.toml": '[project]\nname = "promenade-bus"\ndependencies = ["attrs", "pyyaml"]\n',
    "bus_core/py.typed": "",
    "bus_core/__init__.py": "from bus_core.bus.bus import Bus\n__all__ = ['Bus']\n",
    "bus_core/errors.py": "__all__ = ['BusError']\n",
    "bus_core/on_demand.py": "",
    "bus_core/bus/__init__.py": "from bus_core import on_demand\n__all__ = ['BusParts']\n",
    "bus_core/bus/bus.py": "import attr, attrs, yaml\nfrom bus_core.errors import x\n\nclass Bus: ...\n",
    "bus_core/bus/parts.py": "from bus_core.bus import bus\n",
    "plugins/promenade-bus-fake/pyproject.toml": MEMBER.format(
        name="promenade-bus-fake", entry="fake", package="promenade_bus_fake", more=""
    ),
    "plugins/promenade-bus-fake/src/promenade_bus_fake/py.typed": "",
    "plugins/promenade-bus-fake/src/promenade_bus_fake/__init__.py": "__all__: list[str] = []\n",
    "plugins/promenade-bus-fake/src/promenade_bus_fake/adapter.py": (
        "import click, os\nfrom . import wire\nfrom bus_core import Bus\nfrom bus_core.bus import BusParts\n"
    ),
    "plugins/promenade-bus-fake/src/promenade_bus_fake/wire.py": "",
    "plugins/promenade-bus-testing/pyproject.toml": MEMBER.format(
        name="promenade-bus-testing", entry="testing", package="promenade_bus_testing", more=""
    ).replace('"promenade_bus_testing"', '"promenade_bus_testing.plugin"')
    + "[project.entry-points.pytest11]\npromenade_bus = 'promenade_bus_testing.pytest_plugin'\n",
    "plugins/promenade-bus-testing/src/promenade_bus_testing/py.typed": "",
    "plugins/promenade-bus-testing/src/promenade_bus_testing/__init__.py": "__all__ = []\n",
    "plugins/promenade-bus-testing/src/promenade_bus_testing/plugin.py": "import bus_core\n",
    "contexts/shared/pyproject.toml": MEMBER.format(
        name="promenade-context-shared", entry="shared", package="promenade_shared", more=""
    ),
    "contexts/shared/src/promenade_shared/py.typed": "",
    "contexts/shared/src/promenade_shared/__init__.py": "__all__ = []\n",
    "contexts/sales/pyproject.toml": MEMBER.format(
        name="promenade-context-sales",
        entry="sales",
        package="promenade_sales",
        more=', "promenade-context-shared>=0.1,<0.2"',
    ),
    "contexts/sales/src/promenade_sales/py.typed": "",
    "contexts/sales/src/promenade_sales/__init__.py": "from promenade_shared import x\n__all__ = ['x']\n",
    "contexts/sales/README.md": "See the [shared context](.." + "/shared/README.md).\n",
    "examples/pyproject.toml": MEMBER.format(
        name="promenade-example-crm", entry="crm", package="crm", more=', "promenade-context-sales>=0.1,<0.2"'
    ),
    "examples/crm/py.typed": "",
    "examples/crm/__init__.py": "__all__ = []\n",
    "examples/crm/app.py": "import click, promenade_sales\nfrom crm import shared\n",
    "examples/crm/audit/__init__.py": "",
    "examples/crm/shared/__init__.py": "",
    "examples/crm/sales/__init__.py": "import promenade_sales\nfrom . import tasks\nfrom ..app import x\n",
    "examples/crm/sales/tasks.py": "",
}

FAKE = "plugins/promenade-bus-fake"
CORE_BUS = "bus_core/bus/bus.py"
SALES = "contexts/sales/src/promenade_sales/events.py"

PLANTED = [
    (
        "core imports a plugin",
        CORE_BUS,
        "import promenade_bus_fake.wire",
        "the core must not import promenade_bus_fake.wire",
    ),
    (
        "core imports a context",
        CORE_BUS,
        "def f():\n  from promenade_sales import x",
        "the core must not import promenade_sales.x",
    ),
    (
        "core imports by name",
        CORE_BUS,
        "import_module('promenade_sales')",
        "the core must not import promenade_sales",
    ),
    (
        "core imports undeclared",
        CORE_BUS,
        "import click",
        "click is not declared in the dependencies of promenade-bus",
    ),
    (
        "core imports at run time what type checkers bring",
        CORE_BUS,
        "import typing_extensions",
        "typing_extensions is not declared in the dependencies of promenade-bus",
    ),
    (
        "plugin imports a context",
        f"{FAKE}/src/promenade_bus_fake/wire.py",
        "import promenade_sales",
        "a plugin must not import promenade_sales",
    ),
    (
        "plugin imports undeclared",
        f"{FAKE}/src/promenade_bus_fake/wire.py",
        "try:\n  import attrs\nexcept ImportError: ...",
        "attrs is not declared in the dependencies of promenade-bus-fake",
    ),
    (
        "context imports the example",
        SALES,
        "from examples.crm import app",
        "must not import examples.crm.app",
    ),
    ("context imports a plugin", SALES, "import promenade_bus_fake", "must not import promenade_bus_fake"),
    (
        "context imports an undeclared context",
        "contexts/shared/src/promenade_shared/events.py",
        "import promenade_sales",
        "must not import promenade_sales",
    ),
    (
        "example imports absolutely",
        "examples/crm/sales/tasks.py",
        "from examples.crm.shared import x",
        "the context sales must not import the code of shared",
    ),
    (
        "example imports what is no context",
        "examples/crm/sales/tasks.py",
        "from crm.audit import x",
        "the context sales must not import the code of audit",
    ),
    (
        "example imports undeclared",
        "examples/crm/app.py",
        "import yaml",
        "yaml is not declared in the dependencies of promenade-example-crm",
    ),
    (
        "example under another name",
        "examples/pyproject.toml",
        GOOD_TREE["examples/pyproject.toml"].replace("promenade-example-crm", "promenade-example-shop"),
        "by its directory it is promenade-example-crm",
    ),
    (
        "example imports relatively",
        "examples/crm/sales/tasks.py",
        "from ..shared import x",
        "the context sales must not import the code of shared",
    ),
    (
        "back up",
        "bus_core/errors.py",
        "from bus_core.bus.bus import Bus",
        "errors must not import bus (bus_core.errors imports bus_core.bus.bus)",
    ),
    (
        "back up for types",
        "bus_core/errors.py",
        "if TYPE_CHECKING:\n    from bus_core.bus.bus import Bus",
        "errors must not import bus",
    ),
    (
        "back up to the package",
        "bus_core/errors.py",
        "from bus_core import Bus",
        "errors must not import __init__",
    ),
    ("unknown room", "bus_core/novelty.py", "", "bus_core/novelty: not in ROOMS"),
    ("unknown package", "bus_core/hall/door.py", "", "bus_core/hall: not in ROOMS"),
    (
        "cycle",
        CORE_BUS,
        "from bus_core.bus import parts",
        "bus_core: import cycle bus.bus -> bus.parts -> bus.bus",
    ),
    (
        "cycle for types",
        CORE_BUS,
        "if TYPE_CHECKING:\n    from bus_core.bus.parts import x",
        "bus_core: import cycle bus.bus -> bus.parts -> bus.bus",
    ),
    (
        "cycle in a plugin",
        f"{FAKE}/src/promenade_bus_fake/wire.py",
        "from promenade_bus_fake import adapter",
        "promenade_bus_fake: import cycle adapter -> wire -> adapter",
    ),
    (
        "private name of the core",
        f"{FAKE}/src/promenade_bus_fake/wire.py",
        "from bus_core.bus.bus import Bus",
        "bus_core.bus.bus.Bus is private to the core",
    ),
    (
        "name that a face does not list",
        f"{FAKE}/src/promenade_bus_fake/wire.py",
        "from bus_core.bus import Secret",
        "bus_core.bus.Secret is private to the core",
    ),
    ("no py.typed", f"{FAKE}/src/promenade_bus_fake/py.typed", None, "promenade-bus-fake has no py.typed"),
    ("no package", f"{FAKE}/src/promenade_bus_fake/__init__.py", None, "has no package promenade_bus_fake"),
    ("no __all__", "contexts/shared/src/promenade_shared/__init__.py", "x = 1", "has no explicit __all__"),
    (
        "core without __all__",
        "bus_core/__init__.py",
        "from bus_core.bus import Bus",
        "has no explicit __all__",
    ),
    (
        "long plugin module",
        f"{FAKE}/src/promenade_bus_fake/__init__.py",
        "__all__ = []\n" + "#\n" * 40,
        "41 lines, more than 40",
    ),
    (
        "long module behind the entry point",
        "plugins/promenade-bus-testing/src/promenade_bus_testing/plugin.py",
        "#\n" * 41,
        "plugin.py: 41 lines, more than 40",
    ),
    (
        "foreign table",
        f"{FAKE}/pyproject.toml",
        GOOD_TREE[f"{FAKE}/pyproject.toml"] + "[tool.ruff]\nline-length = 79\n",
        "tool.ruff does not belong here",
    ),
    (
        "foreign key",
        f"{FAKE}/pyproject.toml",
        GOOD_TREE[f"{FAKE}/pyproject.toml"].replace('version = "0.1.0"', 'dynamic = ["version"]'),
        "project.dynamic does not belong here",
    ),
    (
        "foreign build setting",
        f"{FAKE}/pyproject.toml",
        GOOD_TREE[f"{FAKE}/pyproject.toml"] + "exclude = ['x']\n",
        "tool.hatch (other than",
    ),
    (
        "other entry point",
        f"{FAKE}/pyproject.toml",
        GOOD_TREE[f"{FAKE}/pyproject.toml"].replace("fake =", "fraud ="),
        "must have the one 'fake' in the group 'promenade_bus'",
    ),
    (
        "second entry point",
        f"{FAKE}/pyproject.toml",
        GOOD_TREE[f"{FAKE}/pyproject.toml"].replace(
            "[tool.hatch", "more = 'promenade_bus_fake'\n[tool.hatch"
        ),
        "must have the one 'fake' in the group 'promenade_bus'",
    ),
    (
        "entry point of another tool",
        f"{FAKE}/pyproject.toml",
        GOOD_TREE[f"{FAKE}/pyproject.toml"].replace(
            "[tool.hatch", "[project.entry-points.pytest11]\nfake = 'promenade_bus_fake'\n[tool.hatch"
        ),
        "must have the one 'fake' in the group 'promenade_bus'",
    ),
    (
        "pinned core",
        f"{FAKE}/pyproject.toml",
        GOOD_TREE[f"{FAKE}/pyproject.toml"].replace(">=0.1,<0.2", "==0.1.0"),
        "'promenade-bus==0.1.0' must be a range",
    ),
    (
        "core not declared",
        f"{FAKE}/pyproject.toml",
        GOOD_TREE[f"{FAKE}/pyproject.toml"].replace(', "promenade-bus>=0.1,<0.2"', ""),
        "does not depend on promenade-bus",
    ),
    (
        "other name",
        f"{FAKE}/pyproject.toml",
        GOOD_TREE[f"{FAKE}/pyproject.toml"].replace('"promenade-bus-fake"', '"promenade-bus-fraud"'),
        "by its directory it is promenade-bus-fake",
    ),
    ("no pyproject", f"{FAKE}/pyproject.toml", None, f"{FAKE}: has no pyproject.toml"),
    ("outside", "docs/guide.md", "see ../" + "shared/NOTES.md", "docs/guide.md:1: refers to"),
    (
        "merge",
        "docs/guide.md",
        "\n<<<<<<" + "< HEAD\n",
        "docs/guide.md:2: is the mark of a merge",
    ),
    (
        "machine path",
        "docs/guide.md",
        "\ncd /ho" + "me/someone/x",
        "docs/guide.md:2: names a path of one machine",
    ),
    ("registry", "docs/guide.md", "at https://py" + "pi.org/simple", "names the host of a package registry"),
]


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def test_a_good_tree_has_no_violation(tmp_path: Path) -> None:
    """The checker accepts a tree that keeps every rule."""
    assert violations(plant(tmp_path, GOOD_TREE)) == []


@pytest.mark.parametrize(
    ("file", "content", "message"), [row[1:] for row in PLANTED], ids=[row[0] for row in PLANTED]
)
def test_a_broken_rule_is_reported(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    """Each way to break a rule is found and named."""
    plant(tmp_path, GOOD_TREE)
    if content is None:
        (tmp_path / file).unlink()
    else:
        plant(tmp_path, {file: content})
    found = violations(tmp_path)
    assert any(message in violation for violation in found), "\n".join(found) or "nothing was found"


def test_all_violations_are_reported_together(tmp_path: Path) -> None:
    """One run names the violations of several rules in several files."""
    plant(tmp_path, GOOD_TREE)
    plant(
        tmp_path, {CORE_BUS: "import promenade_bus_fake", SALES: "import examples", "bus_core/novelty.py": ""}
    )
    assert len(violations(tmp_path)) == 3
