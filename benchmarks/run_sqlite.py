"""Measures the SQLite adapter against sqlite3 by hand: run_sqlite.py [--quick] [--json]."""

import sys

from sqlite_benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
