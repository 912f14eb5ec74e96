"""Keeps what pytest has collected out of the sight of the garbage collector.

The modules, functions and items of the suite are a million objects that live as long as the process. Without
this, each full collection walks through all of them, and tests about memory collect dozens of times.
"""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest

__all__ = ["pytest_collection"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects no garbage while all that is made stays, and freezes what is there when that is over."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
