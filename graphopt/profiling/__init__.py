"""Timing of compiled models: benchmarks, kernel profiles and their pictures."""
