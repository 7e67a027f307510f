"""NVIDIA GPUs, a TOML file each."""
