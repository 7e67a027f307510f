"""Transformations of Relax modules."""
