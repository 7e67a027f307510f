"""Load a compiled model and run it. Imports only numpy and tvm_ffi, when `load` or `Session` is first used.

session = graphopt.runtime.load("model.gopt", threads=2) outputs = session.run({"x": array})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import Session as Session
    from .session import load as load

__all__ = ["Session", "load"]


def __getattr__(name: str) -> Any:
    # Reading a manifest (`runtime.artifact`) needs only the standard library: it must not load numpy.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import session

    return getattr(session, name)
