"""Passes that remove and simplify; every result keeps its bits."""
