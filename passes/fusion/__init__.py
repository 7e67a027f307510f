"""Passes that fuse operators or recognize decomposed ones; only rounding changes."""
