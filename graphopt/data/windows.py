"""Whether the data of a model's pools is as large as their windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import InputError
from graphopt.ir import Model, Node
from graphopt.rewriting.shapes import fix_shapes

_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})


def windows_fit(model: Model, inputs: Mapping[str, Any]) -> bool:
    """Return whether no window of a pool is longer than its padded data for inputs of these shapes.

    The number of positions is `floor((size + padding - window) / stride) + 1`. Where the numerator is negative, ONNX
    Runtime rounds towards zero instead, and pools over what there is.
    """
    if not any(node.op in _POOLS for node in model.graph.nodes):
        return True
    copy = model.copy()
    try:
        fix_shapes(copy, {name: array.shape for name, array in inputs.items() if isinstance(array, np.ndarray)})
    except InputError:
        return False
    return all(_fits(node) for node in copy.graph.nodes if node.op in _POOLS)


def _fits(node: Node) -> bool:
    data, kernel = node.inputs[0], node.attr("kernel_shape", ())
    if data is None or data.shape is None or (node.attr("auto_pad") or "NOTSET") not in ("NOTSET", "VALID"):
        return True
    rank = len(kernel)
    pads, dilations = node.attr("pads") or [0] * 2 * rank, node.attr("dilations") or [1] * rank
    return all(
        not isinstance(size, int) or (taps - 1) * dilation + 1 <= size + before + after
        for taps, dilation, size, before, after in zip(
            kernel, dilations, data.shape[2:], pads[:rank], pads[rank:], strict=False
        )
    )
