"""A compiler-style graph optimizer for ONNX models: proven passes, then native code.

The names of `__all__` are the whole public face. They are imported when they are first asked for, so that
`import graphopt` is cheap and an artifact can be run without anything but numpy and tvm_ffi.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import optimize as optimize
    from .artifact import Artifact as Artifact
    from .compiler import compile as compile
    from .errors import GraphOptError as GraphOptError
    from .io import load as load
    from .io import save as save
    from .ir import Graph as Graph
    from .ir import Model as Model
    from .ir import Node as Node
    from .ir import Tensor as Tensor
    from .ir import Value as Value
    from .pipeline import Pipeline as Pipeline
    from .report import Report as Report
    from .rewrite import Fidelity as Fidelity
    from .rewrite import Pass as Pass
    from .rewrite import RewritePass as RewritePass
    from .rewriter import Rewriter as Rewriter
    from .target import Target as Target
    from .tolerance import Tolerance as Tolerance

__version__ = "0.1.0"

_HOMES = {
    "load": "io",
    "save": "io",
    "optimize": "api",
    "compile": "compiler",
    "Model": "ir",
    "Graph": "ir",
    "Node": "ir",
    "Value": "ir",
    "Tensor": "ir",
    "Pass": "rewrite",
    "RewritePass": "rewrite",
    "Rewriter": "rewriter",
    "Fidelity": "rewrite",
    "Pipeline": "pipeline",
    "Target": "target",
    "Artifact": "artifact",
    "Report": "report",
    "Tolerance": "tolerance",
    "GraphOptError": "errors",
}
_SUBMODULES = frozenset({"runtime", "ir", "io", "registry", "errors"})

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
