"""Measures the PostgreSQL adapter against psycopg by hand, and its peers: run_postgres.py [--quick]."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # where servers are started

from postgres_benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
