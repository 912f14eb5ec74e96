"""The application for commands: ``promenade-bus run promenade_bus_django.worker:application``.

Outside of ``manage.py`` it sets Django up first, by ``DJANGO_SETTINGS_MODULE``.
"""

from __future__ import annotations

import django
from django.apps import apps

from bus_core import SyncBus

__all__ = ["application"]


def application() -> SyncBus:
    """The bus of the project with all its handlers, not started."""
    if not apps.ready:
        django.setup()
    from promenade_bus_django.facade import bus

    return bus.for_worker()
