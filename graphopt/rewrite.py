"""Deprecated: import from `graphopt.rewriting.passes`. Kept until 0.3, since packages of passes import this name."""

from __future__ import annotations

import warnings

from graphopt.rewriting.passes import Fidelity, Miss, Pass, PassContext, RewritePass

__all__ = ["Fidelity", "Miss", "Pass", "PassContext", "RewritePass"]

warnings.warn(
    "graphopt.rewrite is deprecated and goes in 0.3: import from graphopt.rewriting.passes",
    DeprecationWarning,
    stacklevel=2,
)
