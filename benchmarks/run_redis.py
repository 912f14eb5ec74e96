"""Measures the Redis adapter against redis-py and a peer: run_redis.py [--quick] [--soak EVENTS] [--json]."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # where servers are started

from redis_benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
