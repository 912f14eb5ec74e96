"""The way from a bus to its adapter, inside the process and outside.

May import: ``errors``, ``runtime``, ``events``, ``abc``, ``dispatch``. Owns: routes, batches of publishes,
the pump that receives for one subscription, settlement, flow control, and the lease check after a pause.
"""
