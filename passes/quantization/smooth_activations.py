"""SmoothQuant for all products: large channels of activations are divided, weights that read them multiplied."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from graphopt.compression.accumulators import Channels
from graphopt.compression.products import affordable, groups_of, weight_rows
from graphopt.compression.statistics import observe
from graphopt.ir import Graph, Node, Value, infer_shapes
from graphopt.passes.quantization.dividing import divide_channels, read_by_products
from graphopt.passes.quantization.scalable import data_sizes
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_POWERS = (0.25, 0.5, 0.75, 1.0)
_FLOPS = 1e12
_LEAST_SAMPLES = 32
_SMALLEST = 2.0**-6
"""The smallest factor beside the largest: a channel that was silent on the samples must have room for more."""


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Divide the channels of what products read by a power of their size, and multiply the weights by it.

    One scale serves all channels of an activation, so that small ones lose their bits to large ones; weights have room
    for the difference (SmoothQuant; Xiao et al., 2023), and those of a depthwise convolution, each with a scale of its
    own, take it for nothing. The division goes into the normalization, product or constant factor before, or becomes a
    Mul. Of several powers, that of the least error is taken which rounding of both is expected to cause. Changes no
    result; needs samples, on which it measures channels.

    Options:
        insert: whether a Mul may be inserted where nothing before can take up the division.
        below: the part of the expected error that may be left for a division to be worth it.
    """

    name: ClassVar[str] = "smooth-activations"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    insert: bool = True
    below: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.below <= 1:
            raise ValueError("below must be above 0 and at most 1")

    def run(self, graph: Graph, context: PassContext) -> None:
        context.evaluation.require("samples")
        infer_shapes(context.model)
        read = read_by_products(graph)
        if not read:
            return
        found = _channels(context, list(read))
        done: set[Value] = set()
        for value, consumers in read.items():
            if value in done or not context.allow(consumers[0]):
                continue
            before = context.counts.total() + context.misses.total()
            choose = partial(self._factors, found)
            done |= divide_channels(context, value, consumers, choose, self.insert)
            if context.counts.total() + context.misses.total() == before:
                context.miss("no division lowers the expected error much", consumers[0])

    def _factors(self, found: dict[str, Channels], readers: list[Node]) -> np.ndarray:
        """Return the factors of the least expected error; ones if it would not be much lower."""
        channels = [found[node.inputs[0].name] for node in readers if node.inputs[0] is not None]
        sizes = np.max([np.maximum(c.high, 0) - np.minimum(c.low, 0) for c in channels], axis=0)
        products = [_Product.of(node, own) for node, own in zip(readers, channels, strict=True)]
        ones = np.ones(sizes.shape)
        if not np.isfinite(sizes).all() or not sizes.any():
            return ones
        weights = np.max([product.sizes for product in products], axis=0)
        tried = [_powers(sizes, weights, power) for power in _POWERS]
        errors = [sum(product.error(factors) for product in products) for factors in (ones, *tried)]
        best = int(np.argmin(errors))
        return tried[best - 1] if best and errors[best] < self.below * errors[0] else ones


def _channels(context: PassContext, values: list[Value]) -> dict[str, Channels]:
    samples = context.evaluation.samples
    assert samples is not None
    found = {value.name: Channels() for value in values}
    count = affordable(context.model, samples, _FLOPS, _LEAST_SAMPLES)
    for number, seen in enumerate(observe(context.model, list(found), itertools.islice(samples, count))):
        context.progress(f"channels of {len(found)} activations, sample {number + 1}", number / count)
        for name, channels in found.items():
            channels.add(seen[name])
    return found


def _powers(sizes: np.ndarray, weights: np.ndarray, power: float) -> np.ndarray:
    usable = (sizes > 0) & (weights > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(usable, sizes**power / weights ** (1 - power), 0.0)
    factors = np.maximum(factors, factors.max(initial=0) * _SMALLEST)
    middle = float(np.exp(np.log(factors[usable]).mean())) if usable.any() else 1.0
    return np.where(usable, factors / middle, 1.0)


@dataclass(frozen=True)
class _Product:
    """What the expected error of a product depends on: `weights` [groups, N, K], and of each of K: the place of its
    channel, the mean square, and the sum of the squared weights; the ranges and weights' sizes of channels.
    """

    weights: np.ndarray
    places: np.ndarray
    squares: np.ndarray
    column: np.ndarray
    channels: Channels
    sizes: np.ndarray

    @classmethod
    def of(cls, node: Node, channels: Channels) -> _Product:
        assert node.inputs[1] is not None
        assert node.inputs[1].constant is not None
        array = node.inputs[1].constant.numpy()
        rows = np.abs(weight_rows(node, array))
        count = channels.low.size
        groups = groups_of(node)
        places = np.repeat(np.arange(count).reshape(groups, -1), rows.shape[2] * groups // count, axis=1)
        column = np.square(rows).sum(1, dtype=np.float64)
        return cls(rows, places, channels.mean_squares[places], column, channels, data_sizes(node, array))

    def error(self, factors: np.ndarray) -> float:
        """Return the error of the results beside their size, if both operands are rounded to 8 bits after division.

        Rounding to steps of s has a mean squared error of s * s / 12; errors of different numbers are independent.
        """
        each = factors[self.places]
        low, high = np.minimum(self.channels.low / factors, 0).min(), np.maximum(self.channels.high / factors, 0).max()
        data = np.square((high - low) / 255) * (self.column * np.square(each)).sum()
        steps = (self.weights * each[:, None].astype(np.float32)).max(2) / 127
        weights = (np.square(steps).sum(1) * (self.squares / np.square(each)).sum(1)).sum()
        signal = (self.column * self.squares).sum()
        return float((data + weights) / 12 / max(signal, np.finfo(np.float64).tiny))
