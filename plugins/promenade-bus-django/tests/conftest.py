"""A Django project in this process, its databases in files, and a bus of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.conf import settings

import django_support
from django_support import MEMORY
from postgres_support.fixtures import postgres_database, postgres_server

__all__ = ["postgres_database", "postgres_server"]

django_support.configure()

from django.db import connections  # noqa: E402
from django.test import override_settings  # noqa: E402

from django_support.shop.models import Order, Receipt  # noqa: E402
from promenade_bus_django import DjangoBus, bus  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tables."""
    assert settings.PROMENADE_BUS is MEMORY
    with django_support.databases(tmp_path_factory.mktemp("django")):
        yield


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Empty tables, and no bus that outlives its test."""
    yield
    bus.close()
    for alias in ("default", "other"):
        Order.objects.using(alias).all().delete()
        Receipt.objects.using(alias).all().delete()
    connections.close_all()


@pytest.fixture
def shop() -> Iterator[DjangoBus]:
    """A bus without handlers, as the settings say."""
    made = DjangoBus()
    yield made
    made.close()


@pytest.fixture
def shared(tmp_path: object) -> Iterator[dict[str, object]]:
    """Settings with an adapter that processes share."""
    config = {"app": {"name": "shop"}, "bus": {"adapter": "sqlite", "sqlite": {"path": f"{tmp_path}/bus.db"}}}
    with override_settings(PROMENADE_BUS=config):
        yield config
