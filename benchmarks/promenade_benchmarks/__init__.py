"""The cost of the bus, as ratios of things that ran in the same process at the same time."""
