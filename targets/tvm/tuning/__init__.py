"""Measurements of plans and schedules, and their records."""
