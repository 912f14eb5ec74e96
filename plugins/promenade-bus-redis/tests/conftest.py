"""Real servers for every test of the adapter."""

from redis_support.fixtures import (
    binary,
    certificates,
    redis_server,
    shared_servers,
    start_proxy,
    start_server,
)

__all__ = ["binary", "certificates", "redis_server", "shared_servers", "start_proxy", "start_server"]
