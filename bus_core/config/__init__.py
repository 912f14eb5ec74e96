"""From YAML to typed settings, with every fault, its path and a suggestion.

May import: ``errors``, ``events`` (topic patterns in the configuration), ``runtime``. Owns: reading YAML,
variables, secrets, durations, conversion to options classes, and the configuration of a bus.
"""
