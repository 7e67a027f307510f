"""Quantization of weights alone: groups of them become integers of few bits, activations stay floats."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from graphopt.compression.scales import IntegerScheme
from graphopt.errors import PassError
from graphopt.ir import DType, Graph, Node, Value, infer_shapes
from graphopt.passes.normalize.raise_opset import plan_raising
from graphopt.passes.quantization._weights import binary_groups, fit_groups, quantize_groups
from graphopt.passes.quantization.ignoring import check_patterns, ignored_nodes
from graphopt.rewriting.passes import Fidelity, Pass, PassContext, Rewriter

_BLOCKS = 21
"""The opset that has 4-bit integers, and scales for blocks of them."""
_TWO_BITS = 25
_TYPES = {1: "int2", 2: "int2", 3: "int4", 4: "int4"}
_TABLES = IntegerScheme("int8", symmetric=True)
_MULTIPLE = 4
"""ONNX Runtime 1.32 computes wrong results with a matrix of 2-bit integers of any other number of columns."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Round the weights of products to integers of 1 to 8 bits, with a scale for each group; activations stay floats.

    A group lies along what a product sums, in one channel of its results. Needs no samples. The integers are packed:
    two of 4 bits take a byte. 1 bit is stored as 2, 3 bits as 4, and 5 to 7 as 8. Convolutions that sum few numbers,
    such as depthwise and first ones, get 8 bits and one scale for each channel: few errors do not average out, and few
    weights take little room.

    Options:
        bits: 1 to 8. With 1, a weight is the mean magnitude of its group or its negative; with 2 and `symmetric`, it is
            the scale, its negative, or zero.
        group: the number of weights that share a scale; 0: all of a channel.
        symmetric: whether zero is the middle of the integers; else each group has a zero point.
        power_of_two: whether scales are powers of two.
        weights: the range of a group: `mse`, the one with the least squared error, or `min-max`.
        embeddings: whether tables that Gather reads are quantized too, always to 8 bits, for which it has kernels.
        least: the smallest number of weights that is worth it.
        few: up to how many numbers a convolution sums to get 8 bits; 0: none does.
        ignore: patterns for names and operators of nodes that stay as they are, `re:EXPRESSION`, and `from..to`.
    """

    name: ClassVar[str] = "quantize-weights"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    bits: int = 4
    group: int = 32
    symmetric: bool = False
    power_of_two: bool = False
    weights: str = "mse"
    embeddings: bool = False
    least: int = 256
    few: int = 32
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError("bits must be 1 to 8")
        if self.group < 0 or self.group == 1:
            raise ValueError("group must be 0 or at least 2")
        if self.few < 0:
            raise ValueError("few must be at least 0")
        if self.weights not in ("min-max", "mse"):
            raise ValueError("weights must be min-max or mse")
        check_patterns(self.ignore)

    def run(self, graph: Graph, context: PassContext) -> None:
        self._check_opset(graph, context)
        infer_shapes(context.model)
        insertion = _Insertion(self, context)
        ignored = ignored_nodes(graph, self.ignore, context)
        for node in list(graph.all_nodes()):
            if node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"):
                continue
            reason = self._refused(node, ignored)
            if reason is not None:
                context.miss(reason and f"{node.op}: {reason}", node)
            elif context.allow(node):
                insertion.quantize(node)
        if not context.counts:
            reasons = "; ".join(context.misses) or "it has no convolution or matmul"
            raise PassError(f"there are no weights to quantize ({reasons})", where=context.model.name)

    def _check_opset(self, graph: Graph, context: PassContext) -> None:
        """Make sure that the model's opset has what the result needs. For 2 bits it is raised to the newest."""
        opset = context.model.opset
        if opset < _BLOCKS:
            what = f"opset {opset} has no scales for blocks"
            remedy = "run raise-opset before, as the pipeline quantize-int4 does"
            raise PassError(what, where=context.model.name, remedy=remedy)
        if self.bits <= 2 and opset < _TWO_BITS:
            plans, declines = plan_raising(graph, opset, _TWO_BITS)
            if plans or declines or context.model.functions:
                what = f"it cannot be raised to opset {_TWO_BITS}, the first with 2-bit integers"
                raise PassError(what, where=context.model.name, remedy="use bits=3 or more")
            context.rewriter(graph).set_opset("", _TWO_BITS)

    def _refused(self, node: Node, ignored: Set[Node]) -> str | None:
        """Return why the weights of a node stay floats; "" if it has none."""
        table = node.op == "Gather"
        weights = node.input(0 if table else 1)
        if weights is None or weights.constant is None:
            return "" if table else "its weights are not constant"
        tensor = weights.constant
        if table and (not self.embeddings or tensor.dtype is not DType.FLOAT or len(tensor.shape) != 2):
            return ""
        if node in ignored:
            return "it is to be left alone"
        if tensor.dtype is not DType.FLOAT:
            return "its weights are not float32"
        if len(tensor.shape) < 2:
            return "its weights are a vector"
        if tensor.size < self.least:
            return "it has few weights"
        if table and node.attr("axis", 0) != 0:
            return "it does not look up rows"
        return "the weights of a channel do not lie together" if node.op == "ConvTranspose" else None

    def scheme(self, *, wide: bool = False, few: bool = False) -> IntegerScheme:
        """How the weights of products become integers; `wide`: 2 bits are stored as 4; `few`: they get 8 bits."""
        if few:
            return IntegerScheme("int8", symmetric=True, power_of_two=self.power_of_two)
        dtype = _TYPES.get(3 if wide and self.bits <= 2 else self.bits, "int8")
        symmetric = self.symmetric or self.bits == 1
        return IntegerScheme(dtype if symmetric else f"u{dtype}", symmetric, self.power_of_two, bits=max(2, self.bits))


@dataclass
class _Insertion:
    """The replacement of weights by integers in one model; weights that several products read are stored once."""

    options: QuantizeWeights
    context: PassContext
    stored: dict[tuple[Value, str, bool], list[Value]] = field(default_factory=dict)
    """By weights, form and whether they were transposed: what takes their place."""

    def quantize(self, node: Node) -> None:
        rewriter = self.context.rewriter(node.graph, node)
        weights = node.inputs[0 if node.op == "Gather" else 1]
        assert weights is not None
        assert weights.constant is not None
        if node.op == "Gather":
            self._look_up(rewriter, node, weights)
            self.context.count("tables quantized")
            return
        transposed = node.op == "Gemm" and bool(node.attr("transB", 0))
        form = "Conv" if node.op == "Conv" else "MatMul"
        key = weights, form, transposed
        if key not in self.stored or self.stored[key][0].graph is not node.graph:
            array = weights.constant.numpy()
            self.stored[key] = [self._floats(rewriter, weights.name, array.T if transposed else array, form)]
        rewriter.set_input(node, 1, self.stored[key][0])
        if transposed:
            rewriter.set_attribute(node, "transB", None)
        self.context.count("products quantized")

    def _floats(self, rewriter: Rewriter, name: str, array: np.ndarray, form: str) -> Value:
        """Return floats made of integers: for a Conv of weights [O, C, ...], else of matrices [..., K, N]."""
        few = form == "Conv" and math.prod(array.shape[1:]) <= self.options.few
        if form == "Conv" and (few or math.prod(array.shape[2:]) > 1):
            return self._convolution(rewriter, name, array, few)
        axis = 1 if form == "Conv" else array.ndim - 2
        rows = np.moveaxis(array, axis, -1)
        wide = form == "MatMul" and array.shape[-1] % _MULTIPLE > 0
        if wide and self.options.bits <= 2:
            self.context.miss(f"its bits take 4: ONNX Runtime errs unless columns are a multiple of {_MULTIPLE}")
        flat, scheme = rows.reshape(-1, rows.shape[-1]), self.options.scheme(wide=wide)
        integers, parameters, group = self._rounded(flat, scheme, self.options.group)
        integers = np.moveaxis(integers.reshape(rows.shape), -1, axis)
        blocks = [np.moveaxis(p.reshape(*rows.shape[:-1], -1), -1, axis) for p in parameters]
        attributes = {"axis": axis, "block_size": group}
        if form == "MatMul" and array.ndim == 2 and blocks[0].shape[0] == 1:
            blocks, attributes = [block[0] for block in blocks], {"axis": 1}
        return _dequantized(rewriter, name, [integers, *blocks], attributes)

    def _convolution(self, rewriter: Rewriter, name: str, array: np.ndarray, few: bool) -> Value:
        """Return the weights of a convolution, whose groups go over channels and places: as a matrix, reshaped.

        Groups of whole filters need no other shape.
        """
        rows, scheme = array.reshape(array.shape[0], -1), self.options.scheme(few=few)
        integers, parameters, group = self._rounded(rows, scheme, 0 if few else self.options.group)
        if parameters[0].shape[1] == 1:
            vectors = [parameter[:, 0] for parameter in parameters]
            return _dequantized(rewriter, name, [integers.reshape(array.shape), *vectors], {"axis": 0})
        floats = _dequantized(rewriter, name, [integers, *parameters], {"axis": 1, "block_size": group})
        shape = rewriter.constant(np.array(array.shape, np.int64), f"{name}/shape")
        return rewriter.op("Reshape", [floats, shape], name=f"{name}/reshape").output

    def _rounded(self, rows: np.ndarray, scheme: IntegerScheme, group: int) -> tuple[np.ndarray, list[np.ndarray], int]:
        """Return the integers of a matrix [N, K], scales and zero points [N, G], and the size of a group.

        `group`: 0 for all of a row; groups are no longer than a row.
        """
        group = min(group or rows.shape[1], rows.shape[1])
        if self.options.bits == 1 and scheme.dtype != "int8":
            scales, signs = binary_groups(rows, group, scheme)
            return signs, [scales], group
        scale = fit_groups(rows, group, scheme, self.options.weights == "mse")
        parameters = [scale.scale] if scheme.symmetric else [scale.scale, scale.zero_point]
        return quantize_groups(rows, group, scale), parameters, group

    def _look_up(self, rewriter: Rewriter, node: Node, table: Value) -> None:
        """Look up integers and their scales, so that only the rows looked up become floats."""
        assert table.constant is not None
        key = table, "Gather", False
        if key not in self.stored or self.stored[key][0].graph is not node.graph:
            integers, (scales,), _ = self._rounded(table.constant.numpy(), _TABLES, self.options.group)
            self.stored[key] = [
                rewriter.constant(integers, table.name),
                rewriter.constant(scales, f"{table.name}/scale"),
            ]
        rows, scales_ = (rewriter.op("Gather", [part, node.inputs[1]]).output for part in self.stored[key])
        width = table.constant.shape[1]
        attributes = {"axis": -1, "block_size": min(self.options.group or width, width)}
        floats = rewriter.op("DequantizeLinear", [rows, scales_], attributes, types=[node.output.type])
        rewriter.replace(node, floats.output)


def _dequantized(rewriter: Rewriter, name: str, arrays: list[np.ndarray], attributes: dict[str, int]) -> Value:
    names = (name, f"{name}/scale", f"{name}/zero_point")
    inputs = [rewriter.constant(array, n) for array, n in zip(arrays, names, strict=False)]
    return rewriter.op("DequantizeLinear", inputs, attributes, name=f"{name}/dequantize").output
