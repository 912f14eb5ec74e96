"""What the bus costs, as ratios of things that ran in the same process at the same time."""
