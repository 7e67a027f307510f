"""Fusion of transposes into adjacent matmuls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node, Value
from graphopt.passes.matching.match import NOTHING, permutation, produced_by, swaps_last_two
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    root: Node
    op: str
    inputs: tuple[Value, ...]
    attributes: dict[str, object]
    origin: tuple[Node, ...]


@dataclass(frozen=True)
class FuseTransposeMatmul(RewritePass):
    """Fold transposed factors of matmuls into transA and transB of a Gemm, or let two of them cancel.

    A transposed factor of a product of two matrices becomes an attribute. With batch axes, `Transpose(Aᵀ @ Bᵀ)` becomes
    `B @ A`. A transposed product of two matrices becomes the product of the swapped, transposed factors.
    """

    name: ClassVar[str] = "fuse-transpose-matmul"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("MatMul", "Gemm", "Transpose")

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        return _transposed_result(node) if node.op == "Transpose" else _transposed_factors(node)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        new = rewriter.op(
            match.op,
            match.inputs,
            match.attributes or None,
            types=[match.root.output.type],
            origin=match.origin,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _untransposed(value: Value | None) -> Value | None:
    """Return the value that `value` is the transpose of (last two axes swapped), or None."""
    node = produced_by(value, "Transpose")
    return node.inputs[0] if node is not None and swaps_last_two(permutation(node)) else None


def _transposed_factors(product: Node) -> _Match | Miss:
    first, second = product.inputs[:2]
    assert first is not None
    assert second is not None
    bare = [_untransposed(first), _untransposed(second)]
    if bare == [None, None]:
        return NOTHING
    if product.op == "MatMul" and (first.rank != 2 or second.rank != 2):
        return Miss("only Gemm can transpose, and it takes matrices")
    if first.dtype is None or not first.dtype.is_float:
        return Miss("the factors are not known to be floats")
    attributes: dict[str, object] = dict(product.attributes)
    inputs = [first, second, *product.inputs[2:]]
    for index, name in enumerate(("transA", "transB")):
        source = bare[index]
        if source is not None:
            inputs[index] = source
            attributes[name] = 1 - int(product.attr(name, 0))
    transposes = tuple(v.producer for v, b in zip((first, second), bare) if b is not None and v.producer is not None)
    return _Match(product, "Gemm", tuple(inputs), attributes, (*transposes, product))  # type: ignore[arg-type]


def _transposed_result(transpose: Node) -> _Match | Miss:
    product = produced_by(transpose.inputs[0], "MatMul", "Gemm")
    if product is None or not swaps_last_two(permutation(transpose)):
        return NOTHING
    first, second = product.inputs[:2]
    assert first is not None
    assert second is not None
    if product.output.sole_user is not transpose:
        return Miss("the product is used elsewhere too")
    origin = (product, transpose)
    bare_first, bare_second = _untransposed(first), _untransposed(second)
    if product.op == "MatMul" and bare_first is not None and bare_second is not None:
        return _Match(transpose, "MatMul", (bare_second, bare_first), {}, origin)
    if first.rank != 2 or second.rank != 2:
        return Miss("the factors of a transposed product are neither matrices nor both transposed")
    if first.constant is not None or second.constant is not None:
        return Miss("swapping the factors would transpose a weight that products take as it is")
    if product.op == "Gemm" and product.input(2) is not None:
        return Miss("the transposed Gemm has a bias")
    if first.dtype is None or not first.dtype.is_float:
        return Miss("the factors are not known to be floats")
    attributes = dict(product.attributes)
    swapped: dict[str, object] = {**attributes}
    swapped["transA"] = 1 - int(product.attr("transB", 0))
    swapped["transB"] = 1 - int(product.attr("transA", 0))
    return _Match(transpose, "Gemm", (second, first), swapped, origin)
