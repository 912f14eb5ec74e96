"""Access to the server: connections, topology, scripts, checks at start, and errors.

May import: ``addresses``. Owns: every connection, the translation of the server's errors, permissions.
It is independent of streams and pub/sub.
"""
