"""The app of the outbox: its tables, and the relay beside the bus."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

__all__ = ["OutboxConfig"]


class OutboxConfig(AppConfig):
    """``promenade_bus_django.outbox`` in ``INSTALLED_APPS``."""

    name = "promenade_bus_django.outbox"
    label = "promenade_bus_outbox"
    verbose_name = "Promenade Bus outbox"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Registers the check of the setting."""
        from promenade_bus_django.outbox.checks import check_outbox

        checks.register(check_outbox, "promenade_bus")
