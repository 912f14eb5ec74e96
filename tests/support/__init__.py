"""What several test modules of the workspace share."""
