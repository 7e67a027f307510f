"""The targets that ship with graphopt, one TOML file each, and the backends that compile for them."""
