"""The used names of OpenTelemetry's semantic conventions for messaging, version 1.44.

They are still in development there, so they are written down here rather than imported.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BOUNDARIES",
    "CONSUMED",
    "DESTINATION",
    "ERROR",
    "GROUP",
    "MESSAGE_ID",
    "OPERATION",
    "OPERATION_SECONDS",
    "OPERATION_TYPE",
    "PATTERN",
    "PROCESS_SECONDS",
    "SENT",
    "SUBSCRIPTION",
    "SYSTEM",
    "SYSTEM_NAME",
]

SYSTEM: Final = "messaging.system"
SYSTEM_NAME: Final = "promenade_bus"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
PATTERN: Final = "messaging.destination.template"
SUBSCRIPTION: Final = "messaging.destination.subscription.name"
GROUP: Final = "messaging.consumer.group.name"
MESSAGE_ID: Final = "messaging.message.id"
ERROR: Final = "error.type"

SENT: Final = "messaging.client.sent.messages"
CONSUMED: Final = "messaging.client.consumed.messages"
OPERATION_SECONDS: Final = "messaging.client.operation.duration"
PROCESS_SECONDS: Final = "messaging.process.duration"

BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The buckets of the conventions, in seconds."""
