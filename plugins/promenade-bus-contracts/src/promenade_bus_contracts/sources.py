"""The sources of a command: the installed catalogues, or those of applications with their subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

from bus_core import Topic, TopicCatalogue, load_config
from bus_core.errors import suggestion
from bus_core.events import nearest_names
from bus_core.plugins import discover
from promenade_bus_cli.apps import App, find_app
from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.options import config_option
from promenade_bus_cli.signals import run_interruptible
from promenade_bus_contracts.published import Contract, Subscriber, contracts_of

__all__ = ["Source", "directory_option", "read_source", "source_options"]

F = TypeVar("F", bound=Callable[..., Any])

_IN_CODE = "declared in code"


@attrs.frozen
class Source:
    """The contracts, and the subscriptions of the given applications.

    ``undeclared`` has topics that an application uses and no catalogue owns, as contracts by their first
    word. ``knows_subscribers`` is False without an application.
    """

    contracts: dict[str, Contract]
    undeclared: dict[str, Contract]
    subscribers: tuple[Subscriber, ...]
    services: tuple[str, ...]
    knows_subscribers: bool


def source_options(command: F) -> F:
    """Adds ``--app``, ``--config`` and ``--context``."""
    for option in (
        click.option(
            "--context",
            "contexts",
            multiple=True,
            metavar="NAME",
            help="Only this context. Repeat it for several.",
        ),
        click.option(
            "--app",
            "apps",
            multiple=True,
            metavar="MODULE:ATTR",
            help="An application's bus, as for 'explain': its catalogues and its subscriptions count. "
            "Repeat it for several services. Without it: the installed catalogues.",
        ),
        config_option,
    ):
        command = option(command)
    return command


def directory_option(command: F) -> F:
    """Adds ``--directory``, where lock files and golden events are."""
    return click.option(
        "--directory",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("contracts"),
        show_default=True,
        help="The directory of the lock files and golden events.",
    )(command)


def read_source(apps: Sequence[str], config: str | None, contexts: Sequence[str]) -> Source:
    """Returns the contracts of the installed catalogues or of applications; raises ``CommandFailed``."""
    found = [find_app(spec) for spec in apps]  # outside of the event loop, so that Ctrl-C ends an import

    async def opened() -> list[App]:
        return [await app.open() for app in found]

    buses = [app.bus for app in run_interruptible(opened())] if found else []
    catalogues: dict[int, tuple[TopicCatalogue, str]] = {}
    for plugins in [bus.parts.plugins for bus in buses] or [_installed(config)]:
        catalogues |= {id(catalogue): (catalogue, origin) for catalogue, origin in plugins.catalogues}
    contracts = contracts_of(catalogues.values())
    subscribers = tuple(
        Subscriber(each.name, bus.service, each.topic, _name_of(each.handler))
        for bus in buses
        for each in bus.subscriptions
    )
    owned = {name for contract in contracts.values() for name in contract.topics}
    loose: dict[str, dict[str, Topic[Any]]] = {}
    for bus in buses:
        for name, topic in bus.parts.registry.as_mapping().items():
            if name not in owned:
                loose.setdefault(name.partition(".")[0], {})[name] = topic
    undeclared = contracts_of(
        (TopicCatalogue(context, topics.values()), _IN_CODE) for context, topics in loose.items()
    )
    _check(contexts, contracts)
    if contexts:
        contracts = {name: contract for name, contract in contracts.items() if name in contexts}
        undeclared = {name: contract for name, contract in undeclared.items() if name in contexts}
    services = tuple(dict.fromkeys(bus.service for bus in buses))
    return Source(contracts, undeclared, subscribers, services, bool(buses))


def _name_of(handler: object) -> str:
    """Returns module and name of a handler."""
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{getattr(handler, '__module__', None) or type(handler).__module__}.{name}"


def _installed(config: str | None) -> Any:
    if config is None:
        return discover()
    chosen = load_config(config).plugins
    return discover(disable=chosen.disable, only=chosen.only)


def _check(contexts: Sequence[str], contracts: dict[str, Contract]) -> None:
    for name in contexts:
        if name not in contracts:
            known = ", ".join(contracts) or "none"
            raise CommandFailed(
                f"no catalogue of the context {name!r} is installed (there are: {known})"
                f"{suggestion(nearest_names(name, contracts))}"
            )
