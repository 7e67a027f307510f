"""Passes, the Rewriter, pipelines with their grammar, the pass manager and its report."""
