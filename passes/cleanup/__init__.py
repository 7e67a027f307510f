"""Passes that remove and simplify nodes; all results are bit-identical."""
