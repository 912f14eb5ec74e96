"""Hook specifications, and how plugins are found and loaded.

May import: ``errors``, ``events``, ``abc``, ``retry``, ``config``, ``serialization``. Owns: the hooks, entry
points, quarantine of plugins that fail, and one registry of offered names for each kind of part.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.plugins.chains import chain_warnings
    from bus_core.plugins.discovery import discover
    from bus_core.plugins.hookspecs import (
        ENTRY_POINT_GROUP,
        HOOK_VERSION,
        OLDEST_HOOK_VERSION,
        PROJECT,
        hookimpl,
        hookspec,
    )
    from bus_core.plugins.registries import Finding, InstalledPlugin, NamedRegistry, Offer, Plugins
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "chains": "chain_warnings",
            "discovery": "discover",
            "hookspecs": "ENTRY_POINT_GROUP HOOK_VERSION OLDEST_HOOK_VERSION PROJECT hookimpl hookspec",
            "registries": "Finding InstalledPlugin NamedRegistry Offer Plugins",
        },
    )

__all__ = [
    "ENTRY_POINT_GROUP",
    "HOOK_VERSION",
    "OLDEST_HOOK_VERSION",
    "PROJECT",
    "Finding",
    "InstalledPlugin",
    "NamedRegistry",
    "Offer",
    "Plugins",
    "chain_warnings",
    "discover",
    "hookimpl",
    "hookspec",
]
