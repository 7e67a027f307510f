"""Direct convolution of channel-blocked activations."""
