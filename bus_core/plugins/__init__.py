"""Hook specifications, and how plugins are found and loaded.

May import: ``errors``, ``events``, ``abc``, ``retry``, ``config``, ``serialization``. Owns: the hooks, entry
points, quarantine of plugins that fail, and one registry of offered names for each kind of part.
"""
