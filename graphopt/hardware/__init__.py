"""What a model is compiled for: targets, their TOML form, detection of the processor."""
