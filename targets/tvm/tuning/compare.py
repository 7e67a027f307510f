"""Comparison of the results of two libraries on random arguments, in a worker of the bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm

from graphopt.proof.tolerance import compare


def compare_here(arguments: Sequence[Any], reference: str, library: str) -> str:
    """Return what differs between the two libraries, run on this machine; empty if nothing does."""
    return _differences(tvm.runtime.load_module, tvm.cpu(), arguments, [reference, library])


def compare_there(config: Any, arguments: Sequence[Any], reference: str, library: str) -> str:
    """Do the same on a device of a tracker."""
    session = config.connect_server()
    names = iter(("reference.so", "library.so"))  # a loaded library must not be overwritten

    def load(path: str) -> Any:
        name = next(names)
        session.upload(path, name)
        return session.load_module(name)

    return _differences(load, session.cpu(), arguments, [reference, library])


def _differences(load: Callable[[str], Any], device: Any, infos: Sequence[Any], libraries: Sequence[str]) -> str:
    """Compare all arguments afterwards, which include the results."""
    rng = np.random.default_rng(0)
    arrays = [random(rng, str(dtype), [int(extent) for extent in shape]) for _, dtype, shape in infos]
    results = []
    for library in libraries:
        tensors = [tvm.runtime.tensor(array, device) for array in arrays]
        load(library)["main"](*tensors)
        results.append({f"argument {place}": tensor.numpy() for place, tensor in enumerate(tensors)})
    comparison = compare(results[0], results[1])
    return "" if comparison.ok else str(comparison)


def random(rng: np.random.Generator, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Return numbers of both signs; integers from 1 on, because one may be a divisor."""
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith(("int", "uint")):
        return rng.integers(1, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
