"""The probes by name, with the names of their options. It imports nothing."""

from typing import Final

__all__ = ["OPTIONS"]

OPTIONS: Final = {
    "event-loop": "EventLoopOptions",
    "engine": "EngineOptions",
    "dead-letters": "DeadLetterOptions",
    "consumption": "ConsumptionOptions",
    "losses": "LossOptions",
    "retries": "RetryOptions",
    "quarantined-plugins": "QuarantineOptions",
    "clock": "ClockOptions",
}
