"""Pooling of channel-blocked activations."""
