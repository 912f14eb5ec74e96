"""Scripts that run in an interpreter of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import asyncio, json, os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of any fork beside threads
from uuid import uuid4
from bus_core import *

@event
class Happened(Event):
    number: int = 0

HAPPENED = Topic("test.thing.happened", Happened)
CONFIG = {"bus": {"adapter": "memory", "plugins": {"only": ["memory"]}}}

def happened(number=0):
    return Happened(aggregate_id=uuid4(), number=number)

def handler(event):
    pass
"""


def run_script(script: str) -> tuple[Any, str]:
    """The last line of a script, as JSON, and its log; fails when it crashes or hangs."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr
