"""A server for the schedules of kills; the scenarios start theirs themselves."""

from redis_support.fixtures import start_server

__all__ = ["start_server"]
