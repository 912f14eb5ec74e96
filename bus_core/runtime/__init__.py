"""Time, threads and background failures: tools that know nothing of events.

May import: ``errors``. Owns: the clock protocol, time limits on that clock, a sleep that others can end,
threads for synchronous handlers and for the loop of a sync bus, and the record of what keeps failing.
"""
