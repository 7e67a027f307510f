"""SmoothQuant: channels of activations that are much larger than others are divided, and their weights multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from graphopt.compression.accumulators import Channels
from graphopt.compression.statistics import collect
from graphopt.ir import Graph, Node, Value, infer_shapes
from graphopt.passes.quantization.dividing import divide_channels, read_by_matmuls
from graphopt.passes.quantization.scalable import data_sizes
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Divide the channels of what matmuls read by their size, and multiply the weights by it (SmoothQuant).

    Few channels of a transformer's activations are a hundred times as large as the others, which then lose all their
    bits in integers; weights have room for them (Xiao et al., 2023). The division goes into the normalization or the
    product before, or becomes a Mul. Changes no result; needs samples, on which it measures channels.

    Options:
        alpha: how much moves into the weights, from 0 (nothing) to 1 (all).
        insert: whether a Mul may be inserted where nothing before can take up the division.
        outlier: channels are left alone unless the largest is so many times as large as the median.
    """

    name: ClassVar[str] = "smooth-activations"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    alpha: float = 0.5
    insert: bool = True
    outlier: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError("alpha must be 0 to 1")
        if self.outlier < 1:
            raise ValueError("outlier must be at least 1")

    def run(self, graph: Graph, context: PassContext) -> None:
        context.evaluation.require("samples")
        infer_shapes(context.model)
        read = read_by_matmuls(graph)
        if not read:
            return
        samples = context.evaluation.samples
        assert samples is not None
        names = [value.name for value in read]
        statistics = collect(context.model, samples, names, ["channels"], progress=context.progress)
        done: set[Value] = set()
        for value, consumers in read.items():
            found = statistics.values[value.name]["channels"]
            assert isinstance(found, Channels)
            sizes = np.maximum(np.abs(found.low), np.abs(found.high))
            if value in done or not np.isfinite(sizes).all() or not _is_uneven(sizes, self.outlier):
                if value not in done:
                    context.miss("no channel is much larger than the others", consumers[0])
            elif context.allow(consumers[0]):
                done |= divide_channels(context, value, consumers, partial(_factors, sizes, self.alpha), self.insert)


def _is_uneven(sizes: np.ndarray, outlier: float) -> bool:
    return bool(sizes.size) and float(sizes.max()) > outlier * float(np.median(sizes))


def _factors(sizes: np.ndarray, alpha: float, readers: list[Node]) -> np.ndarray:
    weights = np.max([data_sizes(node, _weights(node)) for node in readers], axis=0)
    usable = (sizes > 0) & (weights > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(usable, sizes**alpha / weights ** (1 - alpha), 1.0)
    middle = float(np.exp(np.log(factors[usable]).mean())) if usable.any() else 1.0
    return np.where(usable, np.clip(factors / middle, 1e-4, 1e4), 1.0)


def _weights(node: Node) -> np.ndarray:
    value = node.inputs[1]
    assert value is not None
    assert value.constant is not None
    return value.constant.numpy()
