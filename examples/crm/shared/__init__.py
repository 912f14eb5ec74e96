"""The context ``shared`` publishes the reference data that every other context works with."""

from crm.shared.publisher import ReferenceDataPublisher

__all__ = ["ReferenceDataPublisher"]
