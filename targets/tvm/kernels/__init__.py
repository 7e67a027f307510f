"""Kernel families: a compute definition together with its schedules, one folder per family."""
