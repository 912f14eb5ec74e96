"""What the Redis adapter costs, as ratios of things that use the same server in turn."""
