"""Makes the middleware that belongs to options. Each is imported only where it is built."""

from __future__ import annotations

from typing import Any

from bus_core import BuildContext, Middleware
from promenade_bus_middleware import config

__all__ = ["build_middleware"]


def build_middleware(options: Any, context: BuildContext) -> Middleware:
    """The middleware of these options."""
    match options:
        case config.LoggingOptions():
            from promenade_bus_middleware.log import logging_middleware

            return logging_middleware(options, context.clock)
        case config.TimeoutOptions():
            from promenade_bus_middleware.timeout import timeout_middleware

            return timeout_middleware(options, context.clock)
        case config.CorrelationOptions():
            from promenade_bus_middleware.correlation import correlation_middleware

            return correlation_middleware(options)
        case config.ExpiryOptions():
            from promenade_bus_middleware.expiry import Expiry

            return Expiry(options, context.clock)
        case config.IdempotencyOptions():
            from promenade_bus_middleware.idempotency import Idempotency

            return Idempotency(options, context.stores["store"], context.clock)
        case config.RateLimitOptions():
            from promenade_bus_middleware.rate_limit import RateLimit

            return RateLimit(options, context.stores["store"])
        case config.CircuitBreakerOptions():
            from promenade_bus_middleware.circuit_breaker import CircuitBreaker

            return CircuitBreaker(options, context.clock)
        case config.ValidateOptions():
            from promenade_bus_middleware.validate import Validate

            return Validate(options)
        case config.RedactOptions():
            from promenade_bus_middleware.redact import Redact

            return Redact(options)
        case _:
            raise TypeError(f"no middleware has options of the class {type(options).__name__}")
