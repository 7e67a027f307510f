"""Convolution in plain layout."""
