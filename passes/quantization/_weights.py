"""Quantized weights: the axis of their channels, their ranges, and the nodes that make floats of them."""

from __future__ import annotations

import numpy as np

from graphopt.compression.scales import IntegerScheme, Scale
from graphopt.ir import Node

_PARTS = np.linspace(0.5, 1.0, 26)
"""The parts of the range of a channel that are tried for the least error."""


def channel_axis(node: Node, rank: int) -> int | None:
    """Return the axis of a product's weights along which its results lie; None if groups share it."""
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1 if node.attr("group", 1) == 1 else None
    if node.op == "Gemm":
        return 0 if node.attr("transB", 0) else 1
    return rank - 1


def fit_weights(array: np.ndarray, axis: int | None, scheme: IntegerScheme, least_error: bool) -> Scale:
    """Return the scale of all weights, or of each channel along `axis`.

    With `least_error`, ranges are narrowed where that lowers the squared error; the largest weights are then clipped.
    """
    rest = tuple(i for i in range(array.ndim) if i != axis)
    low, high = array.min(rest), array.max(rest)
    if not least_error:
        return scheme.fit(low, high)
    best, parts = np.full(low.shape, np.inf), np.ones(low.shape)
    for part in _PARTS[::-1]:
        scale = scheme.fit(low * part, high * part)
        error = np.square(scale.rounded(array, axis).astype(np.float64) - array).sum(rest)
        parts = np.where(error < best, part, parts)
        best = np.minimum(best, error)
    return scheme.fit(low * parts, high * parts)
