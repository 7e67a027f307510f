"""The passes that ship with graphopt, one a file."""
