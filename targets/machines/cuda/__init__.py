"""NVIDIA GPUs, one TOML file each."""
