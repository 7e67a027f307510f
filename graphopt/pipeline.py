"""Deprecated: import from `graphopt.rewriting.pipeline`. Kept until 0.3, since the guides told users this name."""

from __future__ import annotations

import warnings

from graphopt.rewriting.pipeline import Observer, PassManager, Pipeline, Step

__all__ = ["Observer", "PassManager", "Pipeline", "Step"]

warnings.warn(
    "graphopt.pipeline is deprecated and goes in 0.3: import from graphopt.rewriting.pipeline",
    DeprecationWarning,
    stacklevel=2,
)
