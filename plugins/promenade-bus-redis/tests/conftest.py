"""Real servers for every test of the adapter."""

import pytest

from redis_support.fixtures import (
    binary,
    certificates,
    redis_server,
    shared_servers,
    start_proxy,
    start_server,
)

__all__ = ["binary", "certificates", "redis_server", "shared_servers", "start_proxy", "start_server"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests `once` that start the newest server: it is the same one beside each Python."""
    for item in items:
        fixtures: set[str] = set(getattr(item, "fixturenames", ()))
        if "start_server" in fixtures and not fixtures & {"binary", "redis_server"}:
            item.add_marker(pytest.mark.once)
