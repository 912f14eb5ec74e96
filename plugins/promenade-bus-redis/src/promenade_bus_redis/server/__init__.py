"""The way to the server: connections, topology, scripts, checks at start, and what its answers mean.

May import: ``addresses``. Owns: every connection, the translation of the server's errors, permissions.
It knows neither streams nor pub/sub.
"""
