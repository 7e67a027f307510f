"""Generators of nodes of each operator: operands of fitting dtypes and shapes, and any values of its attributes.

ONNX Runtime rejects what does not fit, so a generator need not be exact; it must only succeed often enough. Undefined
results (an integer divided by zero, a NaN cast to an integer) are not generated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from tools.fuzzing.graph import Growing, Refused, Value
from tools.fuzzing.values import DTYPES, FLOATS, INTEGERS, is_float, numbers, words

Maker = Callable[[Growing], list[Value]]
MAKERS: dict[str, Maker] = {}
NUMBERS = (*FLOATS, *INTEGERS)


def maker(*ops: str) -> Callable[[Callable[[Growing, str], list[Value]]], Callable[[Growing, str], list[Value]]]:
    """Register a function as the generator of nodes of each of these operators."""

    def register(function: Callable[[Growing, str], list[Value]]) -> Callable[[Growing, str], list[Value]]:
        for op in ops:
            MAKERS[op] = lambda g, op=op: function(g, op)  # type: ignore[misc]
        return function

    return register


def dtypes_of(g: Growing, op: str, index: int = 0) -> tuple[str, ...]:
    """Return the dtypes that the schema of an operator allows for an input."""
    kinds = g.schema(op).inputs[index].types
    texts = {kind.removeprefix("tensor(").removesuffix(")") for kind in kinds}
    names = {"float": "float32", "double": "float64"}
    return tuple(d for d in DTYPES if d in {names.get(text, text) for text in texts})


def of_shape(g: Growing, dtype: str, shape: tuple[int, ...]) -> Value:
    """Return a value of that dtype and shape, an earlier one or a new one."""
    return g.pick((dtype,), where=lambda v: v.shape == shape, shape=lambda: shape)


def axis_of(g: Growing, value: Value, beyond: int = 0) -> int:
    rank = len(value.shape) + beyond
    if rank == 0:
        raise Refused("no axis")
    return g.random.randint(-rank if g.opset >= 11 else 0, rank - 1)


def axes_of(g: Growing, value: Value) -> list[int]:
    rank = len(value.shape)
    chosen = g.random.sample(range(rank), g.random.randint(min(1, rank), rank))
    return [a - rank if g.opset >= 11 and g.flip(0.3) else a for a in chosen]


@maker(
    *words(
        """
        Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Elu Erf Exp Floor Identity IsInf IsNaN
        LeakyRelu Log Neg Not Reciprocal Relu Round Selu Celu Sigmoid Sign Sin Sinh Softplus Softsign
        Sqrt Tan Tanh HardSigmoid HardSwish Mish Gelu Swish Shrink BitwiseNot Size Shape Dropout
        ThresholdedRelu
        """
    )
)
def unary(g: Growing, op: str) -> list[Value]:
    """Generate an operator with one input, with attributes by their kind."""
    # ONNX Runtime computes a Shrink of float64 in float32.
    value = g.pick(tuple(d for d in dtypes_of(g, op) if (op, d) != ("Shrink", "float64")))
    if op in ("Abs", "Neg") and value.array.dtype.kind == "i" and np.any(value.array == np.iinfo(value.dtype).min):
        raise Refused("undefined")  # its magnitude is no number of the type
    attributes: dict[str, object] = {}
    for name, attribute in g.schema(op).attributes.items():
        if g.flip() or name in ("to", "consumed_inputs", "seed"):
            continue
        if attribute.type == onnx.defs.OpSchema.AttrType.FLOAT:
            attributes[name] = g.choice((0.0, 0.2, 0.5, 1.0, 1.5, -0.3, 3.0))
        elif attribute.type == onnx.defs.OpSchema.AttrType.INT:
            attributes[name] = g.choice((0, 1)) if op != "Shape" else g.random.randint(-3, 3)
        elif name == "approximate":
            attributes[name] = g.choice(("none", "tanh"))
    return g.add(op, value, **attributes)


@maker(
    *words(
        """
        Add Sub Mul Div Pow Mod And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual BitShift
        BitwiseAnd BitwiseOr BitwiseXor PRelu
        """
    )
)
def binary(g: Growing, op: str) -> list[Value]:
    """Generate an operator with two operands that broadcast, in either order, or the same one twice."""
    left = g.pick(dtypes_of(g, op))
    if op in ("Div", "Mod") and not is_float(left.array):
        divisor = g.random.randint(1, 7) * np.ones(g.broadcast(left.shape))
        return g.add(op, left, g.constant(divisor, left.dtype), fmod=g.choice((0, 1)))
    if op == "BitShift":
        return g.add(op, left, g.constant(g.random.randint(0, 7), left.dtype), direction=g.choice(("LEFT", "RIGHT")))
    if op == "Pow":
        return g.add(op, left, power(g, left))
    same = [v for v in g.values if v.dtype == left.dtype and fits(v, left)]
    right = g.choice(same) if g.flip(0.6) else neutral(g, left)
    if op == "PRelu" and np.broadcast_shapes(left.shape, right.shape) != left.shape:
        raise Refused("a slope larger than its data: ONNX Runtime takes more than ONNX says")
    operands = [left, right] if op == "PRelu" or g.flip() else [right, left]
    return g.add(op, *operands, fmod=1 if is_float(left.array) else g.choice((0, 1)))


def power(g: Growing, base: Value) -> Value:
    exponents = g.choice(((2.0,), (0.5,), (3.0,), (0.0,), (-1.0,), (1.0,), (-2.0,), (2.0, 3.0)))
    if not is_float(base.array):
        exponents = tuple(abs(int(e)) for e in exponents)
        if base.array.size and np.abs(base.array.astype(np.float64)).max() > 30:
            raise Refused("overflow of integers")
    dtype = base.dtype if g.opset < 12 or g.flip() else g.choice(("float32", "int64", "int32"))
    array = np.asarray(g.random.choices(exponents, k=base.shape[-1])) if base.shape and g.flip(0.3) else exponents[0]
    return g.constant(array, dtype)


def finite(value: Value) -> bool:
    """Return whether a value has only finite numbers."""
    return not is_float(value.array) or bool(np.isfinite(value.array.astype(np.float64)).all())


def fits(a: Value, b: Value) -> bool:
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return False
    return True


def neutral(g: Growing, value: Value) -> Value:
    """Return a new operand that broadcasts, often with numbers that rewrites look for."""
    shape = g.broadcast(value.shape)
    if value.dtype == "bool" or g.flip():
        return g.fresh(value.dtype, shape)
    number = g.choice((0.0, 1.0, 2.0, 0.5, -1.0, -0.0, 6.0) if is_float(value.array) else (0, 1, 2, 3))
    return g.constant(np.full(shape, number), value.dtype)


@maker("Max", "Min", "Mean", "Sum")
def variadic(g: Growing, op: str) -> list[Value]:
    first = g.pick(dtypes_of(g, op))
    same = [v for v in g.values if v.dtype == first.dtype and fits(v, first)]
    others = [g.choice(same) if g.flip() else neutral(g, first) for _ in range(g.random.randint(0, 2))]
    return g.add(op, first, *others)


@maker("Clip")
def clip(g: Growing, op: str) -> list[Value]:
    value = g.pick(dtypes_of(g, op))
    low, high = g.choice(((0, 6), (1, 3), (None, 3), (0, None), (None, None), (4, 2)))
    if g.opset < 11:
        return g.add(op, value, **{k: float(v) for k, v in (("min", low), ("max", high)) if v is not None})
    bounds = [None if b is None else g.parameter(b, value.dtype) for b in (low, high)]
    while bounds and bounds[-1] is None:
        bounds.pop()
    return g.add(op, value, *bounds)


@maker("Cast", "CastLike")
def cast(g: Growing, op: str) -> list[Value]:
    value, to = g.pick(), g.choice(DTYPES)
    if to in INTEGERS:
        array, limits = value.array.astype(np.float64), np.iinfo(to)
        if not np.isfinite(array).all() or (array.size and (array.min() < limits.min or array.max() >= limits.max)):
            raise Refused("undefined")
    if op == "CastLike":
        return g.add(op, value, g.pick((to,)))
    return g.add(op, value, to=int(helper.np_dtype_to_tensor_dtype(numbers(g.random, to, ()).dtype)))


@maker("BitCast")
def bit_cast(g: Growing, op: str) -> list[Value]:
    value = g.pick(("float32", "int32", "uint32", "float16", "int16"))
    to = {4: ("FLOAT", "INT32", "UINT32"), 2: ("FLOAT16", "INT16", "UINT16")}[value.array.dtype.itemsize]
    return g.add(op, value, to=getattr(onnx.TensorProto, g.choice(to)))


@maker("Where")
def where(g: Growing, op: str) -> list[Value]:
    value = g.pick(dtypes_of(g, op, 1))
    condition = g.pick(("bool",), where=lambda v: fits(v, value), shape=lambda: g.broadcast(value.shape))
    other = g.pick((value.dtype,), where=lambda v: fits(v, value), shape=lambda: g.broadcast(value.shape))
    return g.add(op, condition, *g.random.sample([value, other], 2))


@maker("MatMul")
def matmul(g: Growing, op: str) -> list[Value]:
    left = g.pick(dtypes_of(g, op), 1, 4)
    k, n = left.shape[-1], g.choice((1, 2, 5, 8, 16, 33))
    batch = g.choice(((), (), left.shape[:-2], (1,) * len(left.shape[:-2])))
    shape = g.choice(((*batch, k, n), (*batch, k, n), (k,)))
    return g.add(op, left, of_shape(g, left.dtype, shape))


@maker("Gemm")
def gemm(g: Growing, op: str) -> list[Value]:
    left = g.pick(dtypes_of(g, op), 2, 2)
    ta, tb = g.choice((0, 1)), g.choice((0, 0, 1))
    m, k = left.shape[::-1] if ta else left.shape
    n = g.choice((1, 3, 8, 16))
    right = g.fresh(left.dtype, (n, k) if tb else (k, n))
    bias = g.fresh(left.dtype, g.choice(((n,), (1, n), (m, n), (m, 1), (), (1,)))) if g.opset < 11 or g.flip() else None
    scale = {"alpha": g.choice((1.0, 0.5, 0.0, -2.0)), "beta": g.choice((1.0, 1.0, 0.0, 0.25))}
    return g.add(op, *([left, right, bias] if bias else [left, right]), transA=ta, transB=tb, **scale)


@maker("MatMulInteger", "QLinearMatMul")
def matmul_integer(g: Growing, op: str) -> list[Value]:
    """Generate with at least one term: ONNX Runtime leaves empty sums uninitialized."""
    a = g.pick(("uint8", "int8"), 2, 3, where=lambda v: v.shape[-1] > 0)
    if not a.shape[-1]:
        raise Refused("undefined")
    n = g.choice((1, 4, 8))
    b = g.fresh(g.choice(("int8", "uint8")), (a.shape[-1], n))
    zero_a = g.constant(g.choice((0, 3, 128 if a.dtype == "uint8" else -4)), a.dtype)
    zero_b = g.constant(np.zeros(g.choice(((), (n,)))), b.dtype)
    if op == "MatMulInteger":
        return g.add(op, a, b, *([zero_a, zero_b][: g.random.randint(0, 2)]))
    scales = [g.constant(g.choice((0.02, 0.1, 1.0)), "float32") for _ in range(3)]
    zero_y = g.constant(g.choice((0, 7)), a.dtype)
    return g.add(op, a, scales[0], zero_a, b, scales[1], zero_b, scales[2], zero_y)


@maker("QuantizeLinear", "DequantizeLinear")
def quantize(g: Growing, op: str) -> list[Value]:
    kinds = FLOATS if op == "QuantizeLinear" else ("uint8", "int8", "int32", "uint16", "int16")
    value = g.pick(tuple(d for d in kinds if d in dtypes_of(g, op)), 0, 4)
    axis = axis_of(g, value) if value.shape and g.opset >= 13 and g.flip(0.4) else None
    shape = () if axis is None else (value.shape[axis],)
    dtype = value.dtype if op == "QuantizeLinear" and g.opset >= 19 else "float32"
    scale = g.constant(np.random.default_rng(g.random.getrandbits(32)).uniform(0.02, 0.3, shape), dtype)
    to = g.choice(("uint8", "int8")) if op == "QuantizeLinear" else value.dtype
    zero = g.constant(np.full(shape, 0 if to == "int32" else g.choice((0, 0, 3, 100))), to)
    if op == "QuantizeLinear" and not finite(value):
        raise Refused("undefined")
    return g.add(op, value, scale, *([zero] if g.flip(0.8) else []), axis=axis)


@maker("DynamicQuantizeLinear")
def dynamic_quantize(g: Growing, op: str) -> list[Value]:
    return g.add(op, g.pick(("float32",), 1, 4, where=lambda v: finite(v) and v.array.size > 0))


@maker("Einsum")
def einsum(g: Growing, op: str) -> list[Value]:
    equation = g.choice(
        ("ij,jk->ik", "bij,bjk->bik", "ij->ji", "bij,kj->bik", "i,j->ij", "ij->", "bii->bi", "ij,ij->i")
    )
    sizes = {letter: g.choice((1, 2, 3, 5)) for letter in "bijk"}
    dtype = g.choice(("float32", "float64", "int32"))
    terms = equation.split("->")[0].split(",")
    operands = [of_shape(g, dtype, tuple(sizes[letter] for letter in term)) for term in terms]
    return g.add(op, *operands, equation=equation)


@maker("If")
def condition(g: Growing, op: str) -> list[Value]:
    """Generate branches of one node each, which read a value of the outer graph."""
    value = g.pick(("float32", "int64"))
    chosen = g.pick(("bool",), where=lambda v: v.array.size == 1 and len(v.shape) < 2, shape=lambda: ())
    branches = {}
    for key in ("then_branch", "else_branch"):
        inner = helper.make_node(g.choice(("Abs", "Neg", "Identity")), [value.name], [f"{key}_{len(g.nodes)}"])
        element = helper.np_dtype_to_tensor_dtype(value.array.dtype)
        info = helper.make_tensor_value_info(inner.output[0], element, [None] * len(value.shape))
        branches[key] = helper.make_graph([inner], key, [], [info])
    node = helper.make_node("If", [chosen.name], [f"if_{len(g.nodes)}"], **branches)
    return g.append(node, [chosen, value] if chosen is not value else [chosen])
