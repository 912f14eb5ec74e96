"""An application with an outbox for tests: tables, events, and processes that write and deliver them."""
