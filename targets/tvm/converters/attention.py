"""Attention (ONNX 23 and later): scaled dot products of queries and keys, softmax, weighted sum of values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from graphopt.ir import DType, Value
from graphopt.targets.tvm.converters.attention_bias import Bias, bias_of
from graphopt.targets.tvm.converters.heads import HEADS_SWAPPED, HeadView, joined_after, reader, view_of
from graphopt.targets.tvm.converters.matmul import agree, fast_matmul
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.shape import concatenated, transposed
from graphopt.targets.tvm.converters.tensors import elementwise, wide
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.kernels.attention.compute import AttentionSpec
from graphopt.targets.tvm.kernels.attention.cpu import attention as blocked_attention
from graphopt.targets.tvm.kernels.attention.plan import AttentionPlan
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter

FEW_QUERIES = 4
"""The number of queries below which most lanes of a block would be idle."""


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values as (batch, heads, sequence, head size); `repeat` query heads share a key head."""

    query: Operand
    key: Operand
    value: Operand
    repeat: int

    @property
    def scores_shape(self) -> tuple[Dim, ...]:
        return *self.query.shape[:3], self.key.shape[2]


def _split(c: Call, data: Operand, heads: int) -> Operand:
    """(batch, sequence, heads * size) as (batch, heads, sequence, size)."""
    if data.rank == 4:
        return data
    if not heads:
        raise Declined("the number of heads is missing")
    width = data.shape[2]
    if not isinstance(width, int) or width % heads:
        raise Declined("the hidden size is not a known multiple of the number of heads")
    four = reshape_to(c.ctx, data, [data.shape[0], data.shape[1], heads, width // heads])
    return transposed(c.ctx, four, [0, 2, 1, 3])


def _heads(c: Call) -> tuple[Heads, Operand, Operand, Dim]:
    """Return the heads, the keys and values for the next step, and how many keys came before."""
    query = _split(c, c[0], int(c.attr("q_num_heads", 0)))
    key = _split(c, c[1], int(c.attr("kv_num_heads", 0)))
    value = _split(c, c[2], int(c.attr("kv_num_heads", 0)))
    past: Dim = 0
    if c.input(4) is not None:
        past = c[4].shape[2]
        key = concatenated(c.ctx, [c[4], key], 2)
        value = concatenated(c.ctx, [c[5], value], 2)
    query, key = agree(c.ctx, query, 0, key, 0)
    query, key = agree(c.ctx, query, 3, key, 3)
    key, value = agree(c.ctx, key, 0, value, 0)
    key, value = agree(c.ctx, key, 2, value, 2)
    many, few = query.shape[1], key.shape[1]
    if not isinstance(many, int) or not isinstance(few, int) or many % few:
        raise Declined("the number of query heads is not a known multiple of the number of key heads")
    return Heads(query, key, value, many // few), key, value, past


def _products(c: Call, heads: Heads, kind: str) -> Operand:
    """Queries times keys, unscaled, as `kind`."""
    size = heads.query.shape[3]
    if kind == heads.query.dtype and heads.repeat == 1:
        fast = fast_matmul(c.ctx, heads.query, heads.key, dtype=kind, transpose_b=True, name="attention_scores")
        if fast is not None:
            return fast

    def products(q: te.Tensor, k: te.Tensor) -> te.Tensor:
        d = te.reduce_axis((0, size), "k")
        return define(
            heads.scores_shape,
            lambda b, h, i, j: te.sum(
                q(b, h, i, d).astype(kind) * k(b, _shared(h, heads.repeat), j, d).astype(kind), axis=d
            ),
            name="attention_scores",
        )

    return c.ctx.te(products, heads.query, heads.key, name="attention_scores")


def _shared(head: Any, repeat: int) -> Any:
    return head if repeat == 1 else tirx.indexdiv(head, int_expr(repeat))


def _weights(c: Call, scores: Operand, bias: Bias, scale: float, softcap: float) -> list[Operand]:
    """Return the softmax of the biased scores, with zeros for a row without keys, and the capped and biased scores."""
    kind, shape = scores.dtype, scores.shape

    def compute(x: te.Tensor, *tensors: te.Tensor) -> list[te.Tensor]:
        rest = list(tensors)
        nothing = tirx.const(0, kind)

        def capped(*index: Any) -> tirx.Expr:
            return _capped(x(*index) * tirx.const(scale, kind), softcap)

        def biased(*index: Any) -> tirx.Expr:
            return capped(*index) if bias.is_empty else capped(*index) + bias.at(rest, *index)

        logits = define(shape, biased, name="attention_logits")
        keys, more = te.reduce_axis((0, shape[3]), "k"), te.reduce_axis((0, shape[3]), "k")
        top = define(shape[:3], lambda b, h, i: te.max(logits(b, h, i, keys), axis=keys), name="softmax_max")

        def exponential(b: Any, h: Any, i: Any, j: Any) -> tirx.Expr:
            empty = top(b, h, i) <= tirx.min_value(kind)
            return tirx.Select(empty, nothing, tirx.exp(logits(b, h, i, j) - tirx.Select(empty, nothing, top(b, h, i))))

        exp = define(shape, exponential, name="softmax_exp")
        total = define(shape[:3], lambda b, h, i: te.sum(exp(b, h, i, more), axis=more), name="softmax_sum")

        def norm(b: Any, h: Any, i: Any, j: Any) -> tirx.Expr:
            divisor = total(b, h, i)
            return exp(b, h, i, j) / tirx.Select(divisor > nothing, divisor, tirx.const(1, kind))

        return define(shape, norm, name="softmax_norm")

    return [c.ctx.te(compute, scores, *bias.operands, name="attention_softmax")]


def _capped(x: tirx.Expr, softcap: float) -> tirx.Expr:
    if softcap <= 0:
        return x
    cap = tirx.const(softcap, str(x.ty.dtype))
    return cap * tirx.tanh(x / cap)


def _shown(c: Call, scores: Operand, weights: Operand, bias: Bias, scale: float, softcap: float) -> Operand:
    """Return the optional fourth output: the scores at the stage selected by `qk_matmul_output_mode`."""
    mode, dtype, shape = int(c.attr("qk_matmul_output_mode", 0)), c[0].dtype, scores.shape
    if mode == 3:
        return elementwise(c.ctx, lambda x: x, [weights], dtype, "attention_shown")

    def compute(x: te.Tensor, *tensors: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> tirx.Expr:
            value = x(*index) * tirx.const(scale, scores.dtype)
            if mode >= 1:
                value = _capped(value, softcap)
            if mode == 2 and not bias.is_empty:
                value = value + bias.at(list(tensors), *index)
            return value.astype(dtype)

        return define(shape, element, name="attention_shown")

    return c.ctx.te(compute, scores, *(bias.operands if mode == 2 else []), name="attention_shown")


def _blocked(c: Call) -> Operand | None:
    """Return the result of one kernel that never stores the scores; None if there is none for this call."""
    softmax_type = DType(c.attr("softmax_precision", int(DType.FLOAT)))
    plain = not c.attr("softcap", 0.0) and not any(c.wants(i) for i in (1, 2, 3)) and c.input(4) is None
    if c.ctx.machine is None or c[0].dtype not in ("float32", "float16") or not plain or softmax_type != DType.FLOAT:
        return None
    few = int(c.attr("kv_num_heads", 0))
    counts = (int(c.attr("q_num_heads", 0)), few, few)
    found = [view_of(c.ctx, _given(c, i), c[i], count) for i, count in enumerate(counts)]
    views = [view for view in found if view is not None]
    if len(views) < 3 or len({view.operand.dtype for view in views}) > 1:
        return None
    query, key, value = views
    queries = query.length
    if (isinstance(queries, int) and queries < FEW_QUERIES) or query.size != key.size or key.heads != value.heads:
        return None
    if query.heads % key.heads or any(0 in view.operand.shape for view in views):
        return None
    _, key_operand = agree(c.ctx, query.operand, 0, key.operand, 0)
    agree(c.ctx, key_operand, 0, value.operand, 0)
    place_k, place_v = (2 if view.order == "bhsd" else 1 for view in (key, value))
    agree(c.ctx, key_operand, place_k, value.operand, place_v)
    bias = bias_of(c, (query.batch, query.heads, queries, key.length), 0, "float32")
    return _emit_blocked(c, query, key, value, bias)


def _given(c: Call, index: int) -> Value:
    value = c.node.inputs[index]
    assert value is not None
    return value


def _emit_blocked(c: Call, query: HeadView, key: HeadView, value: HeadView, bias: Bias) -> Operand:
    assert c.ctx.machine is not None
    plan = AttentionPlan.default(c.ctx.machine)
    given, dtype = c.attr("scale"), c[0].dtype
    joined = None if c[0].rank == 3 else joined_after(c.node.outputs[0])
    flat = c[0].rank == 3 or joined is not None
    batch, queries = query.batch, query.length
    four: list[Dim] = [batch, query.heads, queries, value.size]
    shape: list[Dim] = [batch, queries, query.heads * value.size] if flat else four
    out = HeadView(Operand(dtype, shape), "bsw" if flat else "bhsd", query.heads, value.size)

    def build(buffers: list[tirx.Buffer], result: tirx.Buffer) -> tirx.Stmt:
        q, k, v, *rest = buffers
        loads = [lambda *index, one=one: tirx.BufferLoad(one, list(index)) for one in rest]

        def store(b: Any, h: Any, i: Any, d: Any, number: Any) -> tirx.Stmt:
            return tirx.BufferStore(result, number.astype(dtype), out.index(b, h, i, d))

        spec = AttentionSpec(
            batch=int_expr(batch),
            heads=query.heads,
            queries=int_expr(queries),
            keys=int_expr(key.length),
            size=query.size,
            value_size=value.size,
            repeat=query.heads // key.heads,
            scale=1 / math.sqrt(query.size) if given is None else float(given),
            query=reader(query, q),
            key=reader(key, k),
            value=reader(value, v),
            bias=None if bias.is_empty else lambda b, h, i, j: bias.at(loads, b, h, i, j),
            store=store,
        )
        return blocked_attention(spec, plan)

    operands = [query.operand, key.operand, value.operand, *bias.operands]
    result = c.ctx.statement(build, operands, shape, dtype, "attention")
    if joined is None:
        return result
    c.ctx.define(joined, result)
    return transposed(c.ctx, reshape_to(c.ctx, result, [batch, queries, query.heads, value.size]), HEADS_SWAPPED)


def _mixed(c: Call, heads: Heads, weights: Operand, kind: str) -> Operand:
    """Return the sums of the values, weighted by `weights`."""
    dtype = c[0].dtype

    def mix(p: te.Tensor, v: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, weights.shape[3]), "k")
        shape = [*weights.shape[:3], heads.value.shape[3]]
        total = define(
            shape,
            lambda b, h, i, d: te.sum(p(b, h, i, k) * v(b, _shared(h, heads.repeat), k, d).astype(kind), axis=k),
            name="attention_mix",
        )
        if kind == dtype:
            return total
        return define(shape, lambda *i: total(*i).astype(dtype), name="attention_result")

    result = None
    if kind == dtype and heads.repeat == 1:
        result = fast_matmul(c.ctx, weights, heads.value, dtype=dtype, name="attention_mix")
    return result if result is not None else c.ctx.te(mix, weights, heads.value, name="attention_mix")


@converter("Attention", since=23)
def attention(c: Call) -> list[Operand | None]:
    fast = _blocked(c)
    if fast is not None:
        return [fast]
    heads, key, value, past = _heads(c)
    dtype = c[0].dtype
    kind = wide(dtype)
    if c.attr("softmax_precision") == 11 and kind != "float64":
        raise Declined("softmax in float64")
    size = heads.query.shape[3]
    if not isinstance(size, int):
        raise Declined("the head size is not known")
    given = c.attr("scale")
    scale = 1 / math.sqrt(size) if given is None else float(given)
    softcap = float(c.attr("softcap", 0.0))
    scores = _products(c, heads, kind)
    bias = bias_of(c, scores.shape, past, kind)
    weights = _weights(c, scores, bias, scale, softcap)[0]

    result = _mixed(c, heads, weights, kind)
    if c[0].rank == 3:
        batch, _, length, _ = result.shape
        width = int(result.shape[1]) * int(result.shape[3])
        result = reshape_to(c.ctx, transposed(c.ctx, result, [0, 2, 1, 3]), [batch, length, width])
    shown = _shown(c, scores, weights, bias, scale, softcap) if c.wants(3) else None
    return [result, key if c.wants(1) else None, value if c.wants(2) else None, shown]
