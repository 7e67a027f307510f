"""Proving what passes do: the oracle, tolerances, checks after each pass, bisection, reproducers."""
