"""Schedules for CPUs: the pipeline, and the generic schedules of functions without a kernel family."""
