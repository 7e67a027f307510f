"""Search for the ranges of quantized weights by the error of what they multiply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.compression.products import weights_of_rows
from graphopt.compression.rounding import Steps, result_error
from graphopt.ir import Graph, Tensor, Value
from graphopt.passes.quantization.mending import (
    Mendable,
    OutputError,
    Step,
    keep_what_helps,
    mendable_products,
    product_moments,
)
from graphopt.passes.quantization.stored import Bias, bias_of, everywhere, write_bias
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_PARTS = np.linspace(0.5, 1.1, 25)
"""The multiples of a scale that are tried."""
_NEAR = _PARTS[16:23:2]
"""Those for integers of many bits: clipping much costs more than finer steps save, and the error changes slowly."""
_FEW = 16


@dataclass(frozen=True)
class SearchRanges(Pass):
    """Choose the scales of quantized weights so that the results of products, not the weights, have the least error.

    Runs after quantize-static or quantize-weights, and before gptq: weights are rounded to the nearest integers. Needs
    samples; keeps what lowers the error of a product and of the outputs.
    """

    name: ClassVar[str] = "search-ranges"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    def run(self, graph: Graph, context: PassContext) -> None:
        products = [product for product in mendable_products(graph, context) if context.allow(product.node)]
        error = OutputError(context)
        for batch in product_moments(context, products):
            steps = []
            for number, (product, its) in enumerate(batch):
                context.progress(f"searching product {number + 1} of {len(batch)}", number / len(batch))
                steps.append(_step(context, product, its.gram))
            keep_what_helps(context, [step for step in steps if step is not None], error, "ranges changed")


def _step(context: PassContext, product: Mendable, gram: np.ndarray | None) -> Step | None:
    scale = product.stored.source.inputs[1]
    assert gram is not None
    assert scale is not None
    if scale.sole_user is not product.stored.source:
        context.miss(f"{product.node.op}: its scales are used elsewhere too", product.node)
        return None
    search = _Search(product, gram)
    scales = search.best()
    integers = search.steps(scales).nearest(search.floats)
    changed = search.steps(scales).floats(integers) - search.floats
    before = result_error(product.stored.floats - product.floats, gram).sum()
    if not result_error(changed, gram).sum() < before:
        context.miss("no other range lowers the error of the product", product.node)
        return None
    return _replacement(context, product, scale, scales, integers)


def _replacement(
    context: PassContext, product: Mendable, scale: Value, scales: np.ndarray, integers: np.ndarray
) -> Step:
    node, stored = product.node, product.stored
    old, inputs, bias = scale.tensor, list(node.inputs), bias_of(node)
    has_integers = isinstance(bias, Bias) and bias.node is node and node.input(bias.index) is not None
    assert old is not None

    def make() -> None:
        rewriter = context.rewriter(node.graph, node)
        rewriter.set_tensor(scale, Tensor.of(scales.astype(np.float32)))
        stored.write(rewriter, integers)
        if has_integers and isinstance(bias, Bias):
            write_bias(rewriter, node, bias, bias.values)

    def undo() -> None:
        rewriter = context.rewriter(node.graph, node)
        rewriter.set_tensor(scale, old)
        stored.write(rewriter, stored.integers)
        rewriter.set_inputs(node, inputs)

    return Step(node, make, undo)


class _Search:
    """The search for the scales of one product, all groups at once; errors between groups are not looked at.

    Errors are float32, scales float64.
    """

    def __init__(self, product: Mendable, gram: np.ndarray) -> None:
        self.product = product
        self.floats = product.floats.astype(np.float32)
        self.points = product.stored.points.astype(np.float32)
        self.source = product.stored.source
        assert self.source.inputs[1] is not None
        assert self.source.inputs[1].constant is not None
        self.scales = self.source.inputs[1].constant.numpy().astype(np.float64)
        columns = gram.shape[-1]
        self.size = self.source.attr("block_size", 0) or columns
        self.blocks = -(-columns // self.size)
        padded = np.pad(gram, ((0, 0), (0, self.blocks * self.size - columns), (0, self.blocks * self.size - columns)))
        parts = padded.reshape(len(gram), self.blocks, self.size, self.blocks, self.size)
        self.gram = np.stack([parts[:, block, :, block] for block in range(self.blocks)], axis=1)

    def steps(self, scales: np.ndarray) -> Steps:
        """Return what weights may become with other scales."""
        stored = self.product.stored
        each = stored.as_rows(everywhere(self.source, scales.astype(np.float32)))
        return Steps(each, self.points, *stored.limits)

    def best(self) -> np.ndarray:
        """Return the scales of least error."""
        best, least = self.scales, np.full(self.scales.shape, np.inf)
        first, last = self.product.stored.limits
        for part in sorted(_PARTS if last - first < _FEW else _NEAR, key=lambda part: abs(part - 1)):
            tried = (self.scales * part).astype(np.float32).astype(np.float64)
            error = self._error(tried)
            best = np.where(error < least, tried, best)
            least = np.minimum(error, least)
        steps = self.steps(best)
        units = steps.nearest(self.floats) - steps.points
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = self._sums(units, (self.floats, units))
            fitted = one / other
        fitted = np.where(np.isfinite(fitted) & (fitted > np.finfo(np.float32).tiny), fitted, best)
        fitted = fitted.astype(np.float32).astype(np.float64)
        return np.where(self._error(fitted) < least, fitted, best)

    def _error(self, scales: np.ndarray) -> np.ndarray:
        steps = self.steps(scales)
        change = steps.floats(steps.nearest(self.floats)) - self.floats
        return self._sums(change, [change])[0]

    def _sums(self, one: np.ndarray, others: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the sums of `one G other` over the rows of each scale, in its shape."""
        groups, rows, columns = one.shape
        pad = ((0, 0), (0, 0), (0, self.blocks * self.size - columns))
        blocked = np.pad(one, pad).reshape(groups, rows, self.blocks, self.size).swapaxes(1, 2)
        product = np.matmul(blocked, self.gram).swapaxes(1, 2).reshape(groups, rows, -1)[..., :columns]
        return [self._gathered(product * other) for other in others]

    def _gathered(self, elements: np.ndarray) -> np.ndarray:
        """Return the sums over the weights of each scale."""
        stored = self.product.stored
        array = weights_of_rows(stored.node, elements, stored.tensor.shape).reshape(stored.tensor.shape)
        if self.scales.size == 1:
            return array.sum(dtype=np.float64).reshape(self.scales.shape)
        axis = self.source.attr("axis", 1) % array.ndim
        if self.source.attr("block_size", 0):
            total: np.ndarray = np.add.reduceat(array, np.arange(0, array.shape[axis], self.size), axis, np.float64)
            return total
        return array.sum(tuple(i for i in range(array.ndim) if i != axis), np.float64)
