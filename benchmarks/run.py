"""Measures the bus against a bare loop and its peers: run.py [--quick] [--json] [--output DIRECTORY]."""

import sys

from promenade_benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
