"""Cross-layer equalization: channels of neighbouring layers are scaled so that their weights have equal ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Graph, Node, Value, infer_shapes
from graphopt.passes.quantization.scalable import (
    Region,
    data_sizes,
    produced_axis,
    region_of,
    result_sizes,
    scale_data,
    scale_results,
)
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_ROUNDS = 100
_SETTLED = 0.002
_WORTH = 0.05
_LARGEST = 2.0**20


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Scale the channels between products so that the weights before and after have equal ranges in each channel.

    A channel is divided by a factor where it is computed, and multiplied by it where it is read, which changes no
    result (Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019). ReLUs, pools
    and sums of residual branches may lie between; depthwise convolutions take part. For weights with one scale for all
    channels, whose small channels are lost otherwise.
    """

    name: ClassVar[str] = "equalize-layers"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    def run(self, graph: Graph, context: PassContext) -> None:
        infer_shapes(context.model)
        regions = [region for region in _regions(graph, context) if context.allow(next(iter(region.producers)))]
        for region, factors in zip(regions, _factors(regions), strict=True):
            if np.abs(np.log(factors)).max(initial=0) > _WORTH:
                region.scale(context, factors)
                context.count("regions equalized")


def _regions(graph: Graph, context: PassContext) -> list[Region]:
    found: list[Region] = []
    seen: set[Value] = set()
    for node in graph.nodes:
        if node.op not in ("Conv", "Gemm", "MatMul") or node.output in seen:
            continue
        axis = produced_axis(node)
        region = "the rank is not known" if axis is None else region_of(node.output, axis)
        if isinstance(region, str):
            context.miss(region, node)
            continue
        seen.update(region.axes)
        if region.multipliers or region.gates:
            context.miss("a Mul is between products", node)
        elif region.consumers and all(p.op in ("Conv", "Gemm", "MatMul") for p in region.producers):
            found.append(region)
    return found


def _factors(regions: Sequence[Region]) -> list[np.ndarray]:
    """Return the factors of all regions. A product may lie between two, so they are found in turn, again and again."""
    weights: dict[Node, np.ndarray] = {}
    for region in regions:
        for node in (*region.producers, *region.consumers):
            value = node.inputs[1]
            assert value is not None
            assert value.constant is not None
            weights[node] = value.constant.numpy().astype(np.float64)
    factors = [np.ones(region.channels) for region in regions]
    least = [_least_factors(region) for region in regions]
    for _ in range(_ROUNDS):
        moved = 0.0
        for place, region in enumerate(regions):
            before = np.max([result_sizes(node, weights[node]) for node in region.producers], axis=0)
            after = np.max([data_sizes(node, weights[node]) for node in region.consumers], axis=0)
            usable = (before > 0) & (after > 0)
            wanted = factors[place] * np.sqrt(np.where(usable, before, 1) / np.where(usable, after, 1))
            step = np.clip(wanted, least[place], _LARGEST) / factors[place]
            for node in region.producers:
                weights[node] = scale_results(node, weights[node], 1 / step)
            for node in region.consumers:
                weights[node] = scale_data(node, weights[node], step)
            factors[place] = factors[place] * step
            moved = max(moved, float(np.abs(np.log(step)).max(initial=0)))
        if moved < _SETTLED:
            break
    return factors


def _least_factors(region: Region) -> np.ndarray:
    """Return the factors below which a bias would become larger than any is now.

    A channel that is all but dead has next to no weights; made as large as the others, its bias would be the only thing
    left in the range of the activation.
    """
    least = np.full(region.channels, 1 / _LARGEST)
    places = [*((node, 2) for node in region.producers), *region.offsets.items()]
    for node, index in places:
        value = node.input(index)
        if value is not None and value.constant is not None:
            sizes = np.abs(value.constant.numpy().astype(np.float64)).reshape(-1)
            if sizes.max(initial=0) > 0:
                least = np.maximum(least, sizes / sizes.max())
    return least
