"""Matmul of floats by a constant matrix of 2-, 4- or 8-bit integers with a scale for each group of rows."""
