"""The passes that ship with graphopt, one per file."""
