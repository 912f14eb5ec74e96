"""Finds the application's bus by ``MODULE:ATTR`` and runs it on the event loop of a command.

Functions raise ``CommandFailed``; its message names the missing module or attribute and the searched place.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import click

from bus_core import (
    Bus,
    BusClosed,
    BusError,
    DrainReport,
    Event,
    HealthReport,
    PublishManyError,
    SyncBus,
    Topic,
    open_bus,
)
from bus_core.errors import suggestion
from bus_core.events import nearest_names
from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.options import APP_VARIABLE, CONFIG_VARIABLE
from promenade_bus_cli.signals import Signals, cancel_current_task

__all__ = ["App", "FoundApp", "find_app", "run_with_app"]

R = TypeVar("R")


class App:
    """A ``Bus`` or ``SyncBus`` behind one interface.

    Read state through ``bus``; start, publish and close through the methods.
    """

    def __init__(self, bus: Bus, sync: SyncBus | None = None, *, has_handlers: bool) -> None:
        self.bus = bus
        self.has_handlers = has_handlers
        self._sync = sync

    async def start(self) -> None:
        """Starts the bus."""
        await (self.bus.start() if self._sync is None else asyncio.to_thread(self._sync.start))

    async def close(self, timeout: float | None = None) -> DrainReport:
        """Drains and closes the bus."""
        if self._sync is None:
            return await self.bus.close(timeout)
        return await asyncio.to_thread(self._sync.close, timeout)

    async def health(self) -> HealthReport:
        """Runs the probes."""
        return await (self.bus.health() if self._sync is None else asyncio.to_thread(self._sync.health))

    async def publish(self, items: Sequence[tuple[Topic[Any], Event]]) -> Sequence[Exception | None]:
        """Publishes in order. Returns None or an error (``BusClosed`` included) for each item."""
        try:
            if self._sync is None:
                await self.bus.publish_many(items)
            else:
                await asyncio.to_thread(self._sync.publish_many, items)
        except PublishManyError as error:
            return error.results
        except BusClosed as error:
            return [error] * len(items)
        return [None] * len(items)

    @property
    def stays_inside(self) -> bool:
        """True when the adapter stores nothing outside this process."""
        features = self.bus.adapter.features
        return features.in_process and not features.durable


@dataclass(frozen=True)
class FoundApp:
    """The value that ``MODULE:ATTR`` names."""

    spec: str
    value: Any

    async def open(self) -> App:
        """Returns its bus, not started."""
        return await _made(self.spec, self.value)


def find_app(spec: str) -> FoundApp:
    """Imports ``MODULE:ATTR``. Call it outside an event loop, so that Ctrl-C can end an import."""
    return FoundApp(spec, _found(spec))


async def _configured(config: str) -> App:
    """Opens a bus from a configuration file. It has no handlers and is not started."""
    return App(open_bus(config), has_handlers=False)


def run_with_app(
    spec: str | None,
    config: str | None,
    use: Callable[[App], Coroutine[Any, Any, R]],
    signals: Signals | None = None,
) -> R:
    """Runs a coroutine on the bus of ``--app`` or ``--config``. Ctrl-C cancels it.

    Pass ``signals`` when the command handles Ctrl-C itself.
    """
    context = click.get_current_context()
    if spec is not None and context.get_parameter_source("config") is click.core.ParameterSource.COMMANDLINE:
        raise CommandFailed(
            "use either --app or --config, not both: the application opens its own configuration"
        )

    if spec is not None:
        opening = find_app(spec).open
    elif config is not None:
        opening = partial(_configured, config)
    else:
        raise CommandFailed(
            f"no bus given: pass --app MODULE:ATTR or --config FILE, or set {CONFIG_VARIABLE} to a file or "
            f"{APP_VARIABLE} to an application"
        )
    heard = signals or Signals()

    async def opened() -> R:
        app = await opening()
        heard.take_over(cancel_current_task(), "closing")
        return await use(app)

    return heard.run(opened())


# --- finding it -------------------------------------------------------------------------------------------


def _found(spec: str) -> Any:
    module_name, colon, path = spec.partition(":")
    if not colon or not module_name or not path:
        raise CommandFailed(f"{spec!r} is not an application; write MODULE:ATTR, such as 'myshop.main:bus'")
    value: Any = _imported(module_name)
    where = f"the module {module_name!r}"
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            raise CommandFailed(f"{where} has no attribute {name!r}{_nearest(name, value)}") from None
        where = f"{module_name}:{name}"
    return value


def _imported(name: str) -> ModuleType:
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise CommandFailed(
                f"no module named {error.name!r} in {directory} or among the installed packages"
            ) from error
        raise CommandFailed(_import_failure(name, error)) from error
    except BaseException as error:  # sys.exit() at import is a failure too
        raise CommandFailed(_import_failure(name, error)) from error


def _import_failure(name: str, error: BaseException) -> str:
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    traceback, place = error.__traceback__, ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith("<frozen") and code.co_filename != importlib.__file__:
            place = f" ({code.co_filename}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return f"the module {name!r} cannot be imported: {what}{place}; use --debug for the traceback"


def _nearest(name: str, value: object) -> str:
    public = [other for other in dir(value) if not other.startswith("_")]
    buses = [other for other in public if isinstance(getattr(value, other, None), Bus | SyncBus)]
    return suggestion(nearest_names(name, public) or buses)


# --- making it --------------------------------------------------------------------------------------------


async def _made(spec: str, found: Any) -> App:
    value = found
    if not isinstance(value, Bus | SyncBus) and callable(value):
        value = await _called(spec, value)
    if isinstance(value, SyncBus):
        bus, sync = value.bus, value
    elif isinstance(value, Bus):
        bus, sync = value, None
    else:
        returned = "returned" if value is not found else "is"
        raise CommandFailed(
            f"{spec} {returned} {_kind_of(value)}; expected a Bus or SyncBus that is not started, "
            "or a function without parameters that returns one"
        )
    app, status = App(bus, sync, has_handlers=True), bus.status
    if status != "not started":
        if status == "open" and value is not found:
            await app.close()  # its workers would keep the event loop alive
        raise CommandFailed(
            f"the bus of {spec} is already {status}; return it as open_bus() does: "
            "the command starts and closes it"
        )
    return app


async def _called(spec: str, factory: Callable[..., Any]) -> Any:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise CommandFailed(
            f"{spec} cannot be called without arguments ({error}); a function that returns a bus takes none"
        ) from None
    except ValueError:
        pass  # a callable without a signature
    try:
        value = factory()
        return await value if inspect.isawaitable(value) else value
    except (BusError, click.ClickException, KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise CommandFailed(_call_failure(spec, error)) from error


def _call_failure(spec: str, error: BaseException) -> str:
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"calling {spec} failed: {what}; use --debug for the traceback"


def _kind_of(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
