"""The targets that ship with graphopt: a TOML file each."""
