"""Matmul kernels."""
