"""Names that a package offers and imports only when they are used: its import stays cheap.

A package that offers many names of heavy modules lists them twice, for type checkers and for Python:

    import typing

    from bus_core import on_demand

    if typing.TYPE_CHECKING:
        from shop_contracts.catalogue import CATALOGUE
        from shop_contracts.events import OrderPaid, OrderPlaced
    else:
        __getattr__, __dir__ = on_demand.names(
            __name__, {"catalogue": "CATALOGUE", "events": "OrderPaid OrderPlaced"}
        )

    __all__ = ["CATALOGUE", "OrderPaid", "OrderPlaced"]

The ``else`` hides ``__getattr__`` from type checkers, which would otherwise believe that the package has
every name. ``from package import *`` imports everything.

The module that an entry point names takes ``__getattr__`` alone, as in ``__getattr__, _ = ...``. The bus
looks for hooks at every name of ``dir()``, and would import all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module

__all__ = ["names"]


def names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    ``modules`` holds the offered names, separated by blanks, by the module that defines them, which is a path
    inside the package: ``events`` or ``events.base``. These modules are attributes of the package as well, as
    after a plain import. A name is looked up once, and kept in the package from then on. When its module
    cannot be imported, the caller that asks for the name gets the error.
    """
    homes = {name: f"{package}.{module}" for module, offered in modules.items() for name in offered.split()}
    inside = {module.partition(".")[0] for module in modules}

    def __getattr__(name: str) -> object:
        if name in homes:
            value: object = getattr(import_module(homes[name]), name)
            setattr(sys.modules[package], name, value)
            return value
        if name in inside:
            return import_module(f"{package}.{name}")
        raise AttributeError(
            f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package]
        )

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes, *inside})

    return __getattr__, __dir__
