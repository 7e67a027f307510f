"""Passes that choose the memory layout of activations."""
