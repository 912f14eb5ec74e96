"""The error of everything that ``promenade-bus new`` refuses."""

from bus_core import BusError

__all__ = ["NewError"]


class NewError(BusError):
    """A project cannot be written or updated. Nothing was changed, unless the text says so."""
