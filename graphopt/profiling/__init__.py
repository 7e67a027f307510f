"""Timing compiled models: benchmarks, profiles of kernels, pictures of them."""
