"""64-bit ARM processors, one TOML file each."""
