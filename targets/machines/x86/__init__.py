"""x86-64 processors, a TOML file each."""
