"""The built-in serializer: CloudEvents 1.0 in JSON.

May import: ``errors``, ``events``, ``config`` (options), ``abc``. Owns: bounded JSON reading, conversion of
field values, and the envelope. Serializers that are plugins build on it through ``bus_core.serialization``.
"""
