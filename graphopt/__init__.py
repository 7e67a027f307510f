"""A compiler-style graph optimizer for ONNX models: verified passes, then native code.

The names in `__all__` are the complete public API. They are imported on first use, so that `import graphopt` is cheap
and an artifact can be run without anything but numpy and tvm_ffi.
"""

from __future__ import annotations

import importlib
import os.path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .driver.compiling import compile as compile
    from .driver.optimizing import optimize as optimize
    from .errors import GraphOptError as GraphOptError
    from .hardware.target import Target as Target
    from .io.files import load as load
    from .io.files import save as save
    from .ir import Graph as Graph
    from .ir import Model as Model
    from .ir import Node as Node
    from .ir import Tensor as Tensor
    from .ir import Value as Value
    from .proof.tolerance import Tolerance as Tolerance
    from .rewriting.passes import Fidelity as Fidelity
    from .rewriting.passes import Pass as Pass
    from .rewriting.passes import RewritePass as RewritePass
    from .rewriting.pipeline import Pipeline as Pipeline
    from .rewriting.report import Report as Report
    from .rewriting.rewriter import Rewriter as Rewriter
    from .runtime.artifact import Artifact as Artifact

__version__ = "0.1.0"

# In a checkout, `passes` and `targets` are next to this folder; in an installed package, inside it. The extra entry
# makes them importable if this folder was found in the current directory rather than as an installed package.
_CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not os.path.isdir(os.path.join(__path__[0], "passes")) and os.path.isdir(os.path.join(_CHECKOUT, "passes")):
    __path__.append(_CHECKOUT)

_HOMES = {
    "load": "io",
    "save": "io",
    "optimize": "driver.optimizing",
    "compile": "driver.compiling",
    "Model": "ir",
    "Graph": "ir",
    "Node": "ir",
    "Value": "ir",
    "Tensor": "ir",
    "Pass": "rewriting.passes",
    "RewritePass": "rewriting.passes",
    "Rewriter": "rewriting.rewriter",
    "Fidelity": "rewriting.passes",
    "Pipeline": "rewriting.pipeline",
    "Target": "hardware.target",
    "Artifact": "runtime.artifact",
    "Report": "rewriting.report",
    "Tolerance": "proof.tolerance",
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
