"""Measuring which plans and schedules are fastest, and the records of it."""
