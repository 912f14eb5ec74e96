"""Scenarios in which things go wrong on purpose, with real producers, consumers and servers.

``python -m chaos`` runs them at full length (``make chaos``), the tests beside it in a short form.

===============  ======================================================================================
``scenario``     what a scenario is made of: load, faults, bounds
``scenarios``    all of them
``injections``   the faults that are done to processes, servers and the way between
``stage``        what injections act on
``checks``       what must hold besides the account
``sites``        the servers: one, a group with sentinels, a cluster
``roles``        what a producer and a consumer process do
``plans``        what a handler does with an event: the event says so
``planted``      bugs that the scenarios must find
``forkserver``   starts those processes within milliseconds
``crew``         the processes of one run
``cuts``         kills between every pair of steps, as schedules
``histories``    deployments by chance, and a model of what must be
``runner``       runs a scenario and makes its findings
``findings``     the account, the samples, and what they add up to
``report``       the findings for people, and as JSON
===============  ======================================================================================
"""
