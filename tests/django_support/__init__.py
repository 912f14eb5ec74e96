"""A Django project for tests: settings, and an app with two models, topics and handlers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections

__all__ = ["MEMORY", "configure", "databases"]

MEMORY: dict[str, Any] = {
    "app": {"name": "shop"},
    "bus": {"adapter": "memory", "memory": {"serialize": True}, "retry_delay": "1ms"},
}
"""The configuration of the bus, unless a test has another."""


def configure() -> None:
    """Sets Django up in this process, once; ``databases`` comes later, when there is a directory."""
    if settings.configured:
        return
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": "replaced by databases()"}
    sqlite["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}  # type: ignore[assignment]
    settings.configure(
        DATABASES={"default": {**sqlite}, "other": {**sqlite}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["promenade_bus_django", "promenade_bus_django.outbox", "django_support.shop"],
        LOGGING_CONFIG=None,
        PROMENADE_BUS=MEMORY,
        PROMENADE_BUS_OUTBOX={"relay": False},
        ROOT_URLCONF="django_support.shop.urls",
        SECRET_KEY="only for tests",
        USE_TZ=True,
    )
    django.setup()


@contextmanager
def databases(directory: Path) -> Iterator[None]:
    """Files with the tables of all apps, for as long as the tests of a process run."""
    for alias in ("default", "other"):
        connections.settings[alias]["NAME"] = str(directory / f"{alias}.db")
        call_command("migrate", run_syncdb=True, database=alias, verbosity=0)
    yield
    connections.close_all()
