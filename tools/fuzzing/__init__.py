"""The parts of `tools/fuzz.py`: random graphs, how they are checked, and how a failing one is made small."""
