"""The cost of the SQLite adapter, as ratios to a loop by hand in the same run."""
