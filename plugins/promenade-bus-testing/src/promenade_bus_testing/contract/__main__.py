"""Prints the tables of the reference: ``python -m promenade_bus_testing.contract``."""

from __future__ import annotations

from promenade_bus_testing.contract.catalogue import as_markdown

if __name__ == "__main__":
    print(as_markdown(), end="")
