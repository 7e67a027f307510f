"""Verification of passes: the oracle, tolerances, checks after each pass, bisection, reproducers."""
