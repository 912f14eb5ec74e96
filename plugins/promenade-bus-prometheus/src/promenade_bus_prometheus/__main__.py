"""``python -m promenade_bus_prometheus board`` and ``... rules`` print what the package brings with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

__all__ = ["main"]

_FILES: Final = {"board": "board.json", "rules": "rules.yaml"}


def main(arguments: Sequence[str]) -> int:
    """Prints a file of the package; 2 when none is named."""
    if len(arguments) != 1 or arguments[0] not in _FILES:
        print("usage: python -m promenade_bus_prometheus board|rules", file=sys.stderr)
        return 2
    print(files("promenade_bus_prometheus").joinpath(_FILES[arguments[0]]).read_text("utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
