"""Helpers that several test modules of the workspace share."""
