"""Depthwise convolution of channel-blocked activations."""
