"""The parts of `tools/fuzz.py`: generation of random graphs, checks, and the reduction of failing ones."""
