"""The contract as a list of its tests, with their guarantees and required features."""

from __future__ import annotations

import inspect
from itertools import groupby

import attrs

from promenade_bus_testing.contract.running import Needs, needs_of
from promenade_bus_testing.contract.suite import AdapterContract

__all__ = ["ContractTest", "as_markdown", "contract_tests"]


@attrs.frozen
class ContractTest:
    """A test of the contract. ``name`` is stable, because reports and documents refer to it."""

    name: str
    area: str
    promise: str
    needs: Needs


def contract_tests() -> list[ContractTest]:
    """Returns every test of the contract, area by area, in source order."""
    found: list[ContractTest] = []
    for base in AdapterContract.__bases__:
        area = inspect.getdoc(base) or ""
        for name, member in vars(base).items():
            needs = needs_of(member)
            if needs is not None:
                promise = " ".join((inspect.getdoc(member) or "").split())
                found.append(ContractTest(name, area, promise, needs))
    return found


def as_markdown() -> str:
    """Returns the contract as the tables of its reference, one for each area."""
    tables: list[str] = []
    for area, tests in groupby(contract_tests(), key=lambda test: test.area):
        rows = [f"| `{test.name}` | {test.promise.replace('``', '`')} | {test.needs} |" for test in tests]
        heading = f"### {area.rstrip('.')}"
        tables.append("\n".join([heading, "", "| test | guarantee | needs |", "|---|---|---|", *rows, ""]))
    return "\n".join(tables)
