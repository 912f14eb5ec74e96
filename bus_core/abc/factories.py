"""The things that a hook hands over: factories, commands and endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Literal, TypeVar

import attrs

from bus_core.abc.adapters import AnyAdapter
from bus_core.abc.middleware import Store
from bus_core.events.primitives import FrozenMapping
from bus_core.runtime.clock import Clock

__all__ = [
    "BuildContext",
    "ChainRule",
    "Command",
    "Endpoint",
    "Factory",
    "WorkerEndpoint",
]

O = TypeVar("O")  # noqa: E741 - options
P_co = TypeVar("P_co", covariant=True)


@attrs.frozen(kw_only=True)
class BuildContext:
    """The facts that a factory gets when it builds.

    ``sections`` has the foreign sections that the factory named, by path, expanded (``{"database.redis":
    {...}}``). It lacks sections that are absent from the file. ``adapter`` is the adapter of the bus, not
    started yet. Only serializers, health probes and observers get it; for others it is None. ``stores`` has
    the stores that the options choose, by the name of the option; see ``Factory``. ``quarantined`` has the
    reason why each plugin that cannot be loaded was left out, by its name.
    """

    service: str
    clock: Clock
    sections: Mapping[str, Any] = attrs.field(factory=FrozenMapping, repr=False)
    adapter: AnyAdapter | None = attrs.field(default=None, repr=False)
    stores: Mapping[str, Store] = attrs.field(factory=FrozenMapping, repr=False)
    quarantined: Mapping[str, str] = attrs.field(factory=FrozenMapping, repr=False)


@attrs.frozen(kw_only=True)
class ChainRule:
    """Says that some other middleware defeats this one when it is on the wrong side of it.

    ``other`` is the name of a middleware, or one of the words of ``Factory.does``. ``never`` is the place
    that defeats this one. ``outside``: the other one comes earlier in the list. ``inside``: it comes later.
    ``missing``: it is not in the other chain. ``because`` is a clause for people. ``chain`` is the chain to
    which the rule applies; None means both.
    """

    other: str
    never: Literal["outside", "inside", "missing"]
    because: str
    chain: Literal["consume", "publish"] | None = None


@attrs.frozen
class Factory(Generic[O, P_co]):
    """Offers something of a plugin: the class of its options, and a function that builds it from them.

    ``options`` is an attrs class whose fields are the keys of the plugin's part of the configuration.
    The bus reads and checks that part, and reports faults with their path.

    ``sections`` names foreign sections of the file that ``build`` reads as well.
    ``check(options, sections)`` returns the faults of options that are valid one by one, and of those
    sections, as ``<what> @ <path>``. Without faults ``build`` accepts them. The options are None when one of
    them is invalid.

    ``stores`` names options of type ``bus_core.config.Name`` that choose a store. The bus builds the store,
    and starts and closes it; ``build`` finds it in ``context.stores``.

    Only for middleware: ``chains`` are those that it may be in; the bus refuses others. ``does`` has words
    for what it does with events, and ``rules`` name what defeats it; ``promenade-bus config check`` compares
    them. The words in use are ``logs``, ``limits time``, ``skips``, ``postpones``, ``marks``, ``refuses`` and
    ``masks``; a plugin may add its own.

    A middleware with one option::

        @attrs.frozen
        class TimeoutOptions:
            seconds: float = 30.0

        TIMEOUT = Factory(TimeoutOptions, lambda options, context: timeout_after(options.seconds))
    """

    options: type[O]
    build: Callable[[O, BuildContext], P_co]
    sections: tuple[str, ...] = ()
    check: Callable[[O | None, Mapping[str, Any]], Iterable[str]] | None = None
    stores: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    chains: tuple[Literal["consume", "publish"], ...] = attrs.field(
        default=("consume", "publish"), kw_only=True
    )
    does: frozenset[str] = attrs.field(default=frozenset(), kw_only=True)
    rules: tuple[ChainRule, ...] = attrs.field(default=(), kw_only=True)


@attrs.frozen(kw_only=True)
class Command:
    """Offers a command of ``promenade-bus``.

    ``help`` is its line in the list of commands, and in shell completions. ``load`` returns the click
    command. It is called only when the command runs or shows its help, so its imports cost other commands
    nothing. A ``hidden`` command runs, but is not listed.
    """

    help: str
    load: Callable[[], Any]
    hidden: bool = False


@attrs.frozen(kw_only=True)
class Endpoint:
    """Serves a running bus at an address: ``promenade-bus run --http ADDRESS`` uses ``http``.

    ``load`` returns a function of the ``Bus``, which need not be started yet, and an address. That returns a
    context manager: entering it begins to serve, in a thread of its own, and gives the address as people may
    see it; leaving it ends. Both return soon. It raises ``PluginError`` when it cannot serve there.

    ``load_many`` returns such a function for the command that runs several workers. Instead of a bus it takes
    a function, to be called from any thread, which gives the ``WorkerEndpoint`` of each worker.
    """

    help: str
    load: Callable[[], Callable[[Any, str], AbstractContextManager[str]]]
    load_many: (
        Callable[[], Callable[[Callable[[], Sequence[WorkerEndpoint]], str], AbstractContextManager[str]]]
        | None
    ) = None


@attrs.frozen
class WorkerEndpoint:
    """One of several worker processes, as its parent knows it.

    ``name`` is its number from 1. ``state`` ends the sentence "process 1 ..." for people. ``address`` is the
    address of its own endpoint; None without one.
    """

    name: str
    state: str
    address: str | None
