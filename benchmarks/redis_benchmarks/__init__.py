"""The cost of the Redis adapter, as ratios of things that use the same server in turn."""
