"""The cost of the PostgreSQL adapter, as ratios to a loop by hand and to its peers in the same run."""
