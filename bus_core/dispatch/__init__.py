"""The engine: from an accepted event to a handler that has finished with it.

May import: ``errors``, ``runtime``, ``events``, ``abc``. Owns: the queue, lanes (one for each subscription),
workers, attempts, retries, dead-letter decisions, drain and stop. It knows no adapter and no bus.
"""
