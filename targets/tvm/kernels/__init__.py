"""Kernel families: a compute definition and its schedule together, one family a file."""
