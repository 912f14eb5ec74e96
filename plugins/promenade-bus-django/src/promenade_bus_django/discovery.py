"""The ``events`` and ``handlers`` modules of the installed apps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from django.apps import apps
from django.utils.module_loading import autodiscover_modules

from bus_core import TopicCatalogue, hookimpl

__all__ = ["ProjectTopics", "catalogues_of_apps", "import_modules_of_apps"]

_MODULES = ("events", "handlers")


def import_modules_of_apps() -> None:
    """Imports ``events`` and ``handlers`` of every installed app that has them."""
    autodiscover_modules(*_MODULES)


def catalogues_of_apps() -> Iterator[TopicCatalogue]:
    """The topic catalogues in ``events`` modules whose event classes are the app's own.

    Catalogues that an app has imported from a contract package belong to that package, whose plugin offers
    them.
    """
    for app in apps.get_app_configs():
        module = sys.modules.get(f"{app.name}.events")
        for value in vars(module).values() if module is not None else ():
            if isinstance(value, TopicCatalogue) and all(
                f"{topic.event_class.__module__}.".startswith(f"{app.name}.") for topic in value
            ):
                yield value


class ProjectTopics:
    """A plugin that offers the catalogues of the project's apps."""

    def __init__(self, catalogues: Sequence[TopicCatalogue]) -> None:
        self._catalogues = catalogues

    @hookimpl
    def promenade_bus_topics(self) -> Sequence[TopicCatalogue]:
        """Returns the catalogues."""
        return self._catalogues
