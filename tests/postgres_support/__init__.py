"""Real PostgreSQL servers for tests: plain processes on free ports, in directories of their own."""
