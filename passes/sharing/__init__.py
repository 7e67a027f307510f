"""Passes that store equal things once."""
