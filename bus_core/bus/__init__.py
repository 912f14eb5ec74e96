"""The bus that applications hold: publishing, subscriptions, life cycle, health, and ``open_bus``.

May import every other room; none imports this one. Owns: the facade in both forms (asynchronous, and for
threads), and the one place that joins configuration, plugins and adapter.
"""
