"""The audit listens to every topic and keeps a trail: what happened, how often, when first and last."""

from crm.audit.trail import AuditTrail

__all__ = ["AuditTrail"]
