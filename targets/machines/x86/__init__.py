"""x86-64 processors, one TOML file each."""
