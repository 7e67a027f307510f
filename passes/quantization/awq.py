"""AWQ: the channels of data that matter most get finer steps of the weights that multiply them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from graphopt.compression.products import batches, collect_moments, weight_rows, weights_of_rows
from graphopt.compression.rounding import result_error
from graphopt.compression.scales import IntegerScheme
from graphopt.ir import Graph, Node, Value, infer_shapes
from graphopt.passes.quantization._weights import fit_groups, quantize_groups
from graphopt.passes.quantization.dividing import divide_channels, read_by_matmuls
from graphopt.passes.quantization.scalable import scale_data
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_EXPONENTS = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True)
class Awq(Pass):
    """Multiply weights by the size of the channels that they read, to a power that is searched, and divide these (AWQ).

    Weights of large channels thus lose less when quantize-weights, which comes after it, rounds them (Lin et al.,
    "Activation-aware weight quantization", 2024). The division goes into the normalization or the product before, or
    becomes a Mul. Changes no result; needs samples. Where no power lowers the error of the rounded products, nothing
    changes.

    Options:
        bits, group, symmetric: those of quantize-weights.
        insert: whether a Mul may be inserted where nothing before can take up the division.
    """

    name: ClassVar[str] = "awq"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    bits: int = 4
    group: int = 32
    symmetric: bool = False
    insert: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError("bits must be 2 to 8")
        if self.group < 0 or self.group == 1:
            raise ValueError("group must be 0 or at least 2")

    def run(self, graph: Graph, context: PassContext) -> None:
        context.evaluation.require("samples")
        samples = context.evaluation.samples
        assert samples is not None
        infer_shapes(context.model)
        read = read_by_matmuls(graph)
        first = {consumers[0]: value for value, consumers in read.items() if context.allow(consumers[0])}
        done: set[Value] = set()
        for batch in batches(list(first)):
            reads = [(node, first[node].name) for node in batch]
            moments = collect_moments(context.model, samples, reads, progress=context.progress)
            for node, found in zip(batch, moments, strict=True):
                value = first[node]
                if value in done or found.gram is None:
                    continue
                before = context.counts.total() + context.misses.total()
                choose = partial(self._factors, found.gram)
                done |= divide_channels(context, value, read[value], choose, self.insert)
                if context.counts.total() + context.misses.total() == before:
                    context.miss("no power lowers the error of the rounded products", node)

    def _factors(self, gram: np.ndarray, readers: list[Node]) -> np.ndarray:
        """Return the best power of the channels' sizes; ones if none is better than rounding as it is."""
        sizes = np.sqrt(np.einsum("gkk->k", gram), dtype=np.float64)
        usable = sizes > 0
        middle = np.exp(np.log(sizes[usable]).mean()) if usable.any() else 1.0
        sizes = np.where(usable, np.clip(sizes / middle, 1e-4, 1e4), 1.0)
        errors = [sum(self._error(node, gram, sizes**power) for node in readers) for power in _EXPONENTS]
        return sizes ** _EXPONENTS[int(np.argmin(errors))]

    def _error(self, node: Node, gram: np.ndarray, factors: np.ndarray) -> float:
        """Return the squared error of a product whose weights are rounded after multiplication by factors."""
        value = node.inputs[1]
        assert value is not None
        assert value.constant is not None
        weights = value.constant.numpy().astype(np.float64)
        rows = weight_rows(node, scale_data(node, weights, factors).astype(np.float32))[0]
        group = min(self.group or rows.shape[1], rows.shape[1])
        scheme = IntegerScheme("int8" if self.symmetric else "uint8", self.symmetric, bits=self.bits)
        scale = fit_groups(rows, group, scheme, least_error=False)
        integers = quantize_groups(rows, group, scale).astype(np.float64)
        places = np.arange(rows.shape[1]) // group
        rounded = (integers - scale.zero_point.astype(np.float64)[:, places]) * scale.scale[:, places]
        back = scale_data(node, weights_of_rows(node, rounded[None], weights.shape), 1 / factors)
        return float(result_error(weight_rows(node, back) - weight_rows(node, weights), gram).sum())
