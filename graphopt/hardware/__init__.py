"""The machines that models are compiled for: targets, their TOML form, detection of the processor."""
