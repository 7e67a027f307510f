"""64-bit ARM processors, a TOML file each."""
