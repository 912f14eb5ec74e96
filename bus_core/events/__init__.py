"""Events, topics and messages: the values that users and adapters exchange.

May import: ``errors``. Owns: ``Event`` and the checks of its fields, topics and topic patterns, and the
values of a delivery (``Message``, ``Delivery``, ``Outcome``, ``DeadLetter``).
"""
