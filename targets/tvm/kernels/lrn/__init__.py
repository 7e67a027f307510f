"""Local response normalization of channel-blocked activations."""
