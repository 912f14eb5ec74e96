"""The app: finds the handlers of the project, and opens the bus where requests are served."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

__all__ = ["PromenadeBusConfig"]


class PromenadeBusConfig(AppConfig):
    """``promenade_bus_django`` in ``INSTALLED_APPS``."""

    name = "promenade_bus_django"
    verbose_name = "Promenade Bus"

    def ready(self) -> None:
        """Imports ``events`` and ``handlers`` of each app; opens the bus if this process serves requests."""
        from promenade_bus_django.checks import check_settings
        from promenade_bus_django.discovery import import_modules_of_apps
        from promenade_bus_django.facade import bus
        from promenade_bus_django.processes import current_role

        checks.register(check_settings, "promenade_bus")
        import_modules_of_apps()
        bus.serve(current_role())
