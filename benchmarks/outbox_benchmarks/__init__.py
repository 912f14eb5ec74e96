"""The outbox beside what somebody would write by hand, on PostgreSQL and SQLite."""
