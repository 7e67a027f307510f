"""Schedules for CPUs: the pipeline, and the general schedules of functions without a kernel family."""
