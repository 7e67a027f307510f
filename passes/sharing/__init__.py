"""Passes that store equal weights once."""
