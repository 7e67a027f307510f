"""Passes that choose how activations lie in memory."""
