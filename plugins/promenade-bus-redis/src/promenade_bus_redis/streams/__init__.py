"""``mode: streams``: durable events with groups, leases, retention and dead letters.

May import: ``server``, ``config``, ``addresses``. Owns: the key layout and everything that lives under it.
"""
