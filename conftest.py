"""Hooks for every test of the repository."""

from support.travelling import pytest_configure, pytest_runtest_teardown

__all__ = ["pytest_configure", "pytest_runtest_teardown"]
