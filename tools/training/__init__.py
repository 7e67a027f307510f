"""The training of the small networks that ship with graphopt and its tests. Needs torch, which nothing else does."""
