"""Runs the script ``promenade-bus`` as ``python -m promenade_bus_cli``."""

from promenade_bus_cli.main import main

if __name__ == "__main__":
    main()
