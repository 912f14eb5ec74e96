"""A small modular monolith: three contexts and an audit that talk to each other through the bus only.

``crm.app.make_bus`` is the application. Nothing is imported here: discovery loads ``crm.plugin`` for every
bus that is opened where this example is installed.
"""

__all__: list[str] = []
