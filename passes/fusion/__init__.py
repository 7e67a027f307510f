"""Passes that make one operator of several, or recognize what several are; only rounding changes."""
