"""Simplification of chains of casts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import DType, Node, Value
from graphopt.passes.matching.facts import OLD_OPSET, producer_of
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_D = DType
_INTS = (_D.INT8, _D.UINT8, _D.INT16, _D.UINT16, _D.INT32, _D.UINT32, _D.INT64, _D.UINT64)
# The element types that can represent every value of the one on the left. 8-bit floats, strings and complex numbers are
# excluded: their casts saturate, round or print in ways that do not compose.
_WIDER: dict[DType, tuple[DType, ...]] = {
    _D.BOOL: (*_INTS, _D.FLOAT16, _D.BFLOAT16, _D.FLOAT, _D.DOUBLE),
    _D.INT8: (_D.INT16, _D.INT32, _D.INT64, _D.FLOAT16, _D.BFLOAT16, _D.FLOAT, _D.DOUBLE),
    _D.UINT8: (*_INTS[2:], _D.FLOAT16, _D.BFLOAT16, _D.FLOAT, _D.DOUBLE),
    _D.INT16: (_D.INT32, _D.INT64, _D.FLOAT, _D.DOUBLE),
    _D.UINT16: (*_INTS[4:], _D.FLOAT, _D.DOUBLE),
    _D.INT32: (_D.INT64, _D.DOUBLE),
    _D.UINT32: (_D.INT64, _D.UINT64, _D.DOUBLE),
    _D.INT64: (),
    _D.UINT64: (),
    _D.FLOAT16: (_D.FLOAT, _D.DOUBLE),
    _D.BFLOAT16: (_D.FLOAT, _D.DOUBLE),
    _D.FLOAT: (_D.DOUBLE,),
    _D.DOUBLE: (),
}


@dataclass(frozen=True)
class _Found:
    node: Node
    source: Value
    target: DType
    through: tuple[Node, ...]


@dataclass(frozen=True)
class SimplifyCast(RewritePass):
    """Compose casts where the first loses nothing: float32 -> float64 -> float32, int32 -> int64 -> int32.

    A `CastLike` whose target type is known becomes a `Cast`, which frees the value that it took its type from. A chain
    through a narrower type is left alone, because its rounding or wrapping is part of the result.
    """

    name: ClassVar[str] = "simplify-cast"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Cast", "CastLike")

    def match(self, node: Node, context: PassContext) -> _Found | Miss:
        data, target = node.input(0), _target(node)
        if data is None or target is None:
            return Miss("")
        inner = producer_of(data, "Cast", "CastLike")
        source = None if inner is None else inner.input(0)
        if inner is not None and source is not None and source.dtype is not None and data.dtype is not None:
            lost = _loss(source.dtype, data.dtype, target)
            if not lost:
                return _Found(node, source, target, (inner, node))
            if node.op_type == "Cast":
                return Miss(lost)
        if node.op_type == "CastLike":
            return _Found(node, data, target, (node,)) if context.model.opset >= 18 else OLD_OPSET
        return Miss("")

    def rewrite(self, match: _Found, rewriter: Rewriter) -> None:
        value = match.source
        if value.dtype is not match.target:
            node = rewriter.op(
                "Cast",
                [value],
                {"to": int(match.target), **_float8_rules(match.node)},
                types=[match.node.output.type],
                origin=match.through,
            )
            value = node.output
        rewriter.replace(match.node, [value])


def _target(node: Node) -> DType | None:
    if node.op_type == "Cast":
        return DType(node.attr("to", 0)) or None
    like = node.input(1)
    return None if like is None else like.dtype


def _float8_rules(node: Node) -> dict[str, int | str]:
    """Return the attributes that define how a cast to an 8-bit float saturates and rounds."""
    return {name: node.attr(name) for name in ("saturate", "round_mode") if name in node.attributes}


def _loss(source: DType, middle: DType, target: DType) -> str:
    """Return why source -> middle -> target is not source -> target for every value; empty if it is."""
    if source not in _WIDER or middle not in _WIDER or target not in _WIDER:
        return "a cast of strings, complex numbers or very small floats does not compose"
    if source is middle:
        return ""
    if middle not in _WIDER[source]:
        return f"{source.text} -> {middle.text} does not keep every value"
    if target is source or target is DType.BOOL or (target.is_float and not source.is_float):
        return ""
    if source.is_float:
        # Out of range, a float is converted to a machine-dependent integer, which also depends on the float's width.
        return "" if target.is_float else "float to integer is not defined out of range"
    if middle.is_float and target not in _WIDER[source]:
        return "float to integer is not defined out of range"
    return ""
