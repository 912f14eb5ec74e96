"""From YAML to typed settings, with every fault, its path and a suggestion.

May import: ``errors``, ``events`` (topic patterns in the configuration), ``runtime``. Owns: reading YAML,
variables, secrets, durations, conversion to options classes, and the configuration of a bus.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from bus_core.config.bounds import whole_number
    from bus_core.config.bus_config import describe_config
    from bus_core.config.choices import Name, PluginChoice, read_choice
    from bus_core.config.durations import format_duration, parse_duration
    from bus_core.config.faults import join_path
    from bus_core.config.secrets import MASK, Secret, mask_text, mask_tree
    from bus_core.config.settings import read_settings, render_settings
    from bus_core.config.values import DURATION, SECRET, Reader
    from bus_core.config.variables import UNREADABLE
else:
    __getattr__, __dir__ = on_demand.names(
        __name__,
        {
            "bus_config": "describe_config",
            "bounds": "whole_number",
            "choices": "Name PluginChoice read_choice",
            "durations": "format_duration parse_duration",
            "faults": "join_path",
            "secrets": "MASK Secret mask_text mask_tree",
            "settings": "read_settings render_settings",
            "values": "DURATION Reader SECRET",
            "variables": "UNREADABLE",
        },
    )

__all__ = [
    "DURATION",
    "MASK",
    "SECRET",
    "UNREADABLE",
    "Name",
    "PluginChoice",
    "Reader",
    "Secret",
    "describe_config",
    "format_duration",
    "join_path",
    "mask_text",
    "mask_tree",
    "parse_duration",
    "read_choice",
    "read_settings",
    "render_settings",
    "whole_number",
]
