"""``python -m bus_core``: hands over to the command line, which is a distribution of its own."""

from __future__ import annotations

import sys
from importlib import import_module

__all__ = ["main"]


def main() -> None:
    """Runs ``promenade-bus``, or says how to install it and exits with status 2."""
    try:
        package = import_module("promenade_bus_cli")
    except ModuleNotFoundError as error:
        if error.name != "promenade_bus_cli":
            raise
        print(
            "the command line is not installed; to install it: pip install promenade-bus-cli", file=sys.stderr
        )
        sys.exit(2)
    import_module(".main", package.__name__).main()


if __name__ == "__main__":
    main()
