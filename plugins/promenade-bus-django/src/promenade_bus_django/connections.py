"""Database connections around handlers: a broken or expired one is closed, as Django does around requests.

Django closes them when a request begins and ends. Threads of handlers see no requests, and would keep a
connection that the server has closed for ever.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from bus_core.dispatch import inspect_handler

__all__ = ["KeptConnections", "with_connections"]


class KeptConnections:
    """The connections that threads of handlers keep for their next event, to close them with the bus."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], BaseDatabaseWrapper] = {}

    def note(self) -> None:
        """Notes the connections that this thread has open."""
        thread = threading.get_ident()
        for connection in connections.all(initialized_only=True):
            if connection.connection is not None:
                self._kept[thread, connection.alias] = connection

    def close(self) -> None:
        """Closes all of them, from another thread: their own have come to an end."""
        while self._kept:
            _, connection = self._kept.popitem()
            connection.inc_thread_sharing()
            connection.close()


def with_connections(handler: Callable[..., Any], kept: KeptConnections) -> Callable[..., Any]:
    """A handler that closes unusable and expired connections before and after; for ``subscribe``.

    A plain handler runs in a thread, which keeps its connections as ``CONN_MAX_AGE`` says. The calls of an
    async handler through ``sync_to_async``, those of the ORM included, share a thread of their own for each
    event, and its connections are closed with it. Raises ``InvalidHandler``.
    """
    shape = inspect_handler(handler)

    if shape.is_async:

        async def handle_async(*arguments: Any) -> Any:
            async with ThreadSensitiveContext():
                try:
                    return await handler(*arguments)
                finally:
                    await sync_to_async(connections.close_all)()

        wrapper: Callable[..., Any] = handle_async
    else:

        def handle(*arguments: Any) -> Any:
            close_old_connections()
            try:
                return handler(*arguments)
            finally:
                close_old_connections()
                kept.note()

        wrapper = handle
    functools.update_wrapper(wrapper, handler)
    if not hasattr(handler, "__qualname__"):  # an object or a functools.partial
        wrapper.__module__, _, wrapper.__qualname__ = shape.qualified_name.rpartition(".")
    return wrapper
