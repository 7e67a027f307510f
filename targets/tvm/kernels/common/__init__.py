"""Code shared by several kernel families."""
