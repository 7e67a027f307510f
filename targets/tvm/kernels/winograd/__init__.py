"""Winograd convolution of channel-blocked activations."""
