"""What looks wrong about samples: too few, all the same, or far from what the first batch norm of a model expects."""

from __future__ import annotations

import numpy as np

from graphopt.data.samples import Samples
from graphopt.ir import Model, Node

from .statistics import observe

_FEW = 10
_LOOKED_AT = 8
_FACTOR = 30.0
"""How many times the variance may be larger or smaller than expected: a scale of 1/255 too much is 65,025."""


def suspicions(samples: Samples, model: Model) -> list[str]:
    """Return sentences about samples that are valid for the model, but hardly what it was trained with."""
    found = samples.check()
    if samples.count < _FEW:
        found.append(f"there are only {samples.count} samples: ranges of activations will be too narrow for other data")
    first = samples.first(_LOOKED_AT)
    if len(first) > 1 and all(_equal(feed, first[0]) for feed in first[1:]):
        found.append(f"the first {len(first)} samples are all the same")
    found += _unlike_trained(first, model)
    return found


def _equal(feed: dict[str, object], other: dict[str, object]) -> bool:
    return all(np.array_equal(np.asarray(array), np.asarray(other[name])) for name, array in feed.items())


def _unlike_trained(feeds: list[dict[str, object]], model: Model) -> list[str]:
    """Compare the data of the first batch norm with the moments that it stores, which are those of the training."""
    node = next((node for node in model.graph.nodes if _is_norm(node)), None)
    if node is None:
        return []
    data, mean, variance = (node.inputs[i] for i in (0, 3, 4))
    assert data is not None
    assert mean is not None
    assert mean.constant is not None
    assert variance is not None
    assert variance.constant is not None
    arrays = [outputs[data.name] for outputs in observe(model, [data.name], feeds)]
    rows = np.concatenate([np.moveaxis(a, 1, 0).reshape(a.shape[1], -1) for a in arrays], axis=1).astype(np.float64)
    expected = variance.constant.numpy().astype(np.float64) + float(node.attr("epsilon", 1e-5))
    ratio = float(np.median(rows.var(axis=1) / expected))
    shift = float(np.median(np.abs(rows.mean(axis=1) - mean.constant.numpy()) / np.sqrt(expected)))
    if 1 / _FACTOR < ratio < _FACTOR and shift < 5:
        return []
    return [
        f"the samples are not like those of the training: at {node.label}, the variance is {ratio:.3g} times that of "
        f"the training and the mean {shift:.3g} deviations away; is the preprocessing the same (0..1 or 0..255)?"
    ]


def _is_norm(node: Node) -> bool:
    if node.op != "BatchNormalization" or node.attr("training_mode", 0):
        return False
    data = node.input(0)
    constants = [node.input(i) for i in (3, 4)]
    known = all(value is not None and value.constant is not None for value in constants)
    return known and data is not None and bool(data.name) and data.constant is None
