"""Events that wait for the commit of a database transaction.

An event belongs to the transaction, or the savepoint, that is open when it is published: Django forgets the
callbacks of what is rolled back. A block of ``after_commit`` that raises drops its events as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any

import attrs
from django.db import transaction

from bus_core import Event, PublishManyError, Topic
from promenade_bus_django.health import Losses

__all__ = ["Block", "Item", "block_of_caller", "block_open", "publish_after"]


@attrs.frozen
class Item:
    """A checked event on its way."""

    topic: Topic[Any] | str
    event: Event[Any]
    headers: Mapping[str, str] | None = None


Send = Callable[[Sequence[Item]], None]
"""Publishes items in order; raises the error of a single one, and ``PublishManyError`` for several."""


class Block:
    """A block of ``after_commit``. ``items`` were published outside of transactions, and wait for its end."""

    __slots__ = ("items", "outer", "raised", "using")

    def __init__(self, using: str | None, outer: Block | None) -> None:
        self.using = using
        self.outer = outer
        self.items: list[Item] = []
        self.raised = False

    @property
    def dropped(self) -> bool:
        """True when this block, or one around it, has raised."""
        return self.raised or (self.outer is not None and self.outer.dropped)


_block: ContextVar[Block | None] = ContextVar("promenade_bus_django_block", default=None)


def block_of_caller() -> Block | None:
    """The innermost block of ``after_commit`` that the caller is in."""
    return _block.get()


@contextmanager
def block_open(using: str | None, send: Send) -> Iterator[None]:
    """``DjangoBus.after_commit``."""
    block = Block(using, _block.get())
    token = _block.set(block)
    try:
        yield
    except BaseException:
        block.raised = True
        raise
    finally:
        _block.reset(token)
    if block.outer is not None:
        block.outer.items += block.items
    elif block.items:
        send(block.items)


def publish_after(
    items: Sequence[Item], using: str | None, block: Block | None, send: Send, losses: Losses
) -> None:
    """Publishes checked events after the commit of the transaction that is open now.

    Without one, they wait for the end of the block, or are published at once if there is none either.
    """
    connection = transaction.get_connection(using)
    if not connection.in_atomic_block and (connection.connection is None or connection.autocommit):
        if block is None:
            send(items)
        else:
            block.items += items
        return
    context = copy_context()  # that of the caller: middleware may read a tenant or a trace from it
    context.run(_block.set, None)  # the block has ended by then, and would keep what handlers publish inline

    def publish() -> None:
        if block is None or not block.dropped:
            context.run(_publish_committed, items, send, losses)

    transaction.on_commit(publish, using, robust=True)


def _publish_committed(items: Sequence[Item], send: Send, losses: Losses) -> None:
    """Publishes, and counts failures: an error would tell the caller that the transaction had failed."""
    try:
        send(items)
    except PublishManyError as error:
        for item, result in zip(items, error.results, strict=True):
            if result is not None:
                losses.add(item.topic, item.event, result)
    except Exception as error:
        for item in items:
            losses.add(item.topic, item.event, error)
