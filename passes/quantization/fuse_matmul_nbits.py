"""Fusion of matrices of few bits and the products with them into ONNX Runtime's MatMulNBits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node, Tensor, Value
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_DOMAIN = "com.microsoft"
_TYPES = (DType.INT4, DType.UINT4, DType.INT8, DType.UINT8)
_SMALLEST, _LARGEST = 16, 256


@dataclass(frozen=True)
class _Matrix:
    """Integers [K, N], and their scales and zero points [blocks, N]."""

    integers: Tensor
    scales: Tensor
    points: Tensor | None
    block: int


@dataclass(frozen=True)
class FuseMatmulNbits(RewritePass):
    """Fuse a product with a matrix of 4- or 8-bit integers in blocks into com.microsoft's MatMulNBits.

    That is what ONNX Runtime makes of the pair itself; other runtimes know only this form, or load it faster.
    `accuracy_level` is that of the operator: 4 lets it round activations to 8 bits, 1 does not.
    """

    name: ClassVar[str] = "fuse-matmul-nbits"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    ops: ClassVar[tuple[str, ...]] = ("MatMul", "Gemm")

    accuracy_level: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy_level <= 4:
            raise ValueError("accuracy_level must be 0 to 4")

    def match(self, node: Node, context: PassContext) -> tuple[Node, int, _Matrix] | Miss:
        weights = node.inputs[1]
        source = None if weights is None else weights.producer
        if source is None or source.op != "DequantizeLinear" or not all(v is None or v.constant for v in source.inputs):
            return Miss("")
        if node.op == "Gemm" and (any(node.attr(n, 0) for n in ("transA", "transB")) or not _is_plain(node)):
            return Miss("the product is scaled or transposed, or its bias is no vector of constants")
        matrix = _read(source)
        return matrix if isinstance(matrix, Miss) else (node, self.accuracy_level, matrix)

    def rewrite(self, match: tuple[Node, int, _Matrix], rewriter: Rewriter) -> None:
        node, level, matrix = match
        assert node.inputs[1] is not None
        name = node.inputs[1].name
        bits = matrix.integers.dtype.bits
        shift = 1 << (bits - 1) if matrix.integers.dtype in (DType.INT4, DType.INT8) else 0
        unsigned = (matrix.integers.numpy().astype(np.int64) + shift).astype(np.uint8)
        rows, columns = unsigned.shape
        padded = np.pad(unsigned.T, ((0, 0), (0, -rows % matrix.block)))
        inputs: list[Value | None] = [
            node.inputs[0],
            rewriter.constant(_packed(padded.reshape(columns, -1, matrix.block), bits), name),
            rewriter.constant(np.ascontiguousarray(matrix.scales.numpy().T), f"{name}/scale"),
        ]
        points = _points(matrix, shift)
        inputs.append(None if points is None else rewriter.constant(_packed(points, bits), f"{name}/zero_point"))
        inputs += [None, node.input(2)]
        while inputs[-1] is None:
            inputs.pop()
        sizes = {"K": rows, "N": columns, "bits": bits, "block_size": matrix.block, "accuracy_level": level}
        rewriter.set_opset(_DOMAIN, 1)
        new = rewriter.op("MatMulNBits", inputs, sizes, domain=_DOMAIN, types=[node.output.type])
        rewriter.replace(node, new.output)


def _is_plain(node: Node) -> bool:
    bias = node.input(2)
    vector = bias is None or (bias.constant is not None and len(bias.constant.shape) == 1 and bias.constant.size > 1)
    return vector and node.attr("alpha", 1.0) == 1 and (bias is None or node.attr("beta", 1.0) == 1)


def _read(source: Node) -> _Matrix | Miss:
    """Return the matrix that a DequantizeLinear makes floats of."""
    integers, scales, *rest = [None if v is None else v.constant for v in source.inputs]
    assert integers is not None
    assert scales is not None
    points = rest[0] if rest else None
    if integers.dtype not in _TYPES or len(integers.shape) != 2 or scales.dtype is not DType.FLOAT:
        return Miss("the weights are no matrix of 4- or 8-bit integers with scales in float32")
    rows = integers.shape[0]
    axis, block = source.attr("axis", 1) % 2, source.attr("block_size", 0)
    if axis == 1 and not block and len(scales.shape) == 1:
        block = max(_SMALLEST, 1 << (rows - 1).bit_length())
        scales, points = (None if t is None else _as_row(t) for t in (scales, points))
    elif axis == 0 and block and scales.shape[0] == 1:
        block = max(_SMALLEST, 1 << (rows - 1).bit_length())
    elif axis == 1 or not block:
        return Miss("the scales are not those of blocks of rows")
    if block & (block - 1) or not _SMALLEST <= block <= _LARGEST:
        return Miss(f"the size of a block is no power of two from {_SMALLEST} to {_LARGEST}")
    assert scales is not None
    return _Matrix(integers, scales, points, block)


def _as_row(tensor: Tensor) -> Tensor:
    return Tensor.of(tensor.numpy()[None])


def _points(matrix: _Matrix, shift: int) -> np.ndarray | None:
    """Return zero points [N, blocks] of the unsigned integers; None if all are in the middle, the default."""
    signed = 0 if matrix.points is None else matrix.points.numpy().astype(np.int64)
    points = np.broadcast_to(signed + shift, matrix.scales.shape).T.astype(np.uint8)
    return None if np.all(points == 1 << (matrix.integers.dtype.bits - 1)) else points


def _packed(integers: np.ndarray, bits: int) -> np.ndarray:
    """Return unsigned integers packed into bytes along the last axis, the first one lowest."""
    if bits == 8:
        return np.ascontiguousarray(integers)
    odd = integers.shape[-1] % 2
    pairs = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, odd)])
    return pairs[..., ::2] | pairs[..., 1::2] << 4
