"""Transformations of scheduled TIR functions."""
