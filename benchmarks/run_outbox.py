"""Measures the outbox against what one writes by hand: run_outbox.py [--quick] [--json]."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # where servers are started

from outbox_benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
