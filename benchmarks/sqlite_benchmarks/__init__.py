"""What the SQLite adapter costs, as ratios to a loop by hand in the same run."""
