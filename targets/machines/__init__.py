"""The targets that ship with graphopt, one TOML file each."""
