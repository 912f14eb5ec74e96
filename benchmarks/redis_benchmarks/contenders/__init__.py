"""A module for each library: ``consumer`` and ``producer`` are what its users write.

Each imports its library and what the handler needs, and none of the others: they may live in different
environments.
"""
