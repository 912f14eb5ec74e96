"""Hooks for every test of the repository."""

from support.frozen_heap import pytest_collection
from support.lengthy import pytest_collection_modifyitems
from support.travelling import pytest_configure, pytest_runtest_teardown

__all__ = [
    "pytest_collection",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_teardown",
]
