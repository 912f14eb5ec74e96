"""``python -m promenade_bus_cli``: the same as the script ``promenade-bus``."""

from promenade_bus_cli.main import main

if __name__ == "__main__":
    main()
