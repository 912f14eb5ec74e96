"""Hooks for every test of the repository."""

from support.frozen_heap import pytest_collection
from support.travelling import pytest_configure, pytest_runtest_teardown

__all__ = ["pytest_collection", "pytest_configure", "pytest_runtest_teardown"]
