"""Joining of samples along their first axis: fewer and larger runs of a model compute the same in less time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphopt.ir import Graph
from graphopt.proof.oracle import Reference
from graphopt.proof.tolerance import Output

if TYPE_CHECKING:
    from graphopt.data.sample_files import Feed

_ALIKE = 1e-4
"""How far apart results may be beside the largest: sums of larger matrices may be computed in another order."""


def joined(graph: Graph, reference: Reference, feeds: Sequence[Feed], most: int) -> list[Feed]:
    """Return feeds with up to `most` of them in each; as they are if the model does not compute the same then.

    Its inputs and outputs must have an open first axis, and no node may find a range for all numbers that it is given.
    The rest is tried: `reference`, which runs it, must return for some samples at once what it returns for each.
    """
    feeds = list(feeds)
    if most < 2 or len(feeds) < 2 or not _takes_any_number(graph, feeds):
        return feeds
    found = [_concatenated(feeds[start : start + most]) for start in range(0, len(feeds), most)]
    each = [reference.run(feed) for feed in feeds[:most]]
    return found if _agree(each, reference.run(found[0])) else feeds


def _takes_any_number(graph: Graph, feeds: Sequence[Feed]) -> bool:
    inputs = [value for value in graph.inputs if not value.is_initializer]
    if not all(value.shape and not isinstance(value.shape[0], int) for value in (*inputs, *graph.outputs)):
        return False
    if any(node.op == "DynamicQuantizeLinear" for node in graph.all_nodes()):
        return False
    names = {value.name for value in inputs}
    if any(feed.keys() != names or not _are_arrays(feed) for feed in feeds):
        return False
    return len({tuple((a.dtype, a.shape) for _, a in sorted(feed.items())) for feed in feeds}) == 1


def _are_arrays(values: Mapping[str, Output]) -> bool:
    return all(isinstance(value, np.ndarray) for value in values.values())


def _concatenated(feeds: Sequence[Feed]) -> Feed:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _agree(each: Sequence[dict[str, Output]], together: dict[str, Output]) -> bool:
    """Return whether the results of several runs are those of one run, apart from what their sums are rounded by."""
    if not all(map(_are_arrays, (*each, together))):
        return False
    for name, array in _concatenated(each).items():
        if array.shape != together[name].shape:
            return False
        if array.dtype.kind == "f":
            allowed = _ALIKE * float(np.abs(array).max(initial=0))
            if not np.allclose(array, together[name], rtol=0, atol=allowed, equal_nan=True):
                return False
    return True
