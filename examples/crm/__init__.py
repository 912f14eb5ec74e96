"""A small modular monolith: three contexts and an audit that talk to each other through the bus only."""

from crm.app import Application, build, make_bus

__all__ = ["Application", "build", "make_bus"]
