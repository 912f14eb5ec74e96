"""The outbox and the inbox on Django's ORM; list ``promenade_bus_django.outbox`` in ``INSTALLED_APPS``.

The rows are those of ``promenade-bus-outbox``, whose relay takes them to the bus. Writing them needs Django
only; the relay needs the extra ``outbox``.
"""

import typing

from bus_core import on_demand

if typing.TYPE_CHECKING:
    from promenade_bus_django.outbox.inbox import Inbox
    from promenade_bus_django.outbox.writing import DjangoOutbox, outbox
else:
    __getattr__, __dir__ = on_demand.names(__name__, {"inbox": "Inbox", "writing": "DjangoOutbox outbox"})

__all__ = ["DjangoOutbox", "Inbox", "outbox"]
