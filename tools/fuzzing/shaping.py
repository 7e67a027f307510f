"""Generators of nodes that move, choose or repeat elements (see `tools/fuzzing/operators.py`)."""

from __future__ import annotations

import numpy as np

from tools.fuzzing.graph import Growing, Refused, Value
from tools.fuzzing.operators import NUMBERS, axes_of, axis_of, dtypes_of, maker, of_shape
from tools.fuzzing.values import any_size, is_float


def splits(g: Growing, size: int) -> tuple[int, ...]:
    """Return a shape of `size` elements."""
    shape = []
    for divisor in (2, 3, 4):
        if size and size % divisor == 0 and g.flip(0.4):
            shape.append(divisor)
            size //= divisor
    shape.append(size)
    g.random.shuffle(shape)
    return tuple(shape if g.flip(0.7) else [1, *shape])


@maker("Reshape")
def reshape(g: Growing, op: str) -> list[Value]:
    value = g.pick()
    shape = list(splits(g, value.array.size))
    if value.array.size and g.flip():
        shape[g.random.randrange(len(shape))] = -1
    for axis, size in enumerate(shape[: len(value.shape)]):
        if size == value.shape[axis] and g.flip(0.3):
            shape[axis] = 0
    return g.add(op, value, g.parameter(shape), allowzero=int(g.flip(0.1)))


@maker("Flatten")
def flatten(g: Growing, op: str) -> list[Value]:
    value = g.pick(dtypes_of(g, op), 1, 4)
    return g.add(op, value, axis=g.random.randint(-len(value.shape) if g.opset >= 11 else 0, len(value.shape)))


@maker("Squeeze")
def squeeze(g: Growing, op: str) -> list[Value]:
    value = g.pick(where=lambda v: 1 in v.shape)
    ones = [axis for axis, size in enumerate(value.shape) if size == 1]
    axes = None if g.flip(0.2) else g.random.sample(ones, g.random.randint(1, len(ones)))
    return g.add(op, value, named={"axes": axes} if axes else None)


@maker("Unsqueeze")
def unsqueeze(g: Growing, op: str) -> list[Value]:
    value = g.pick(high=3)
    count = g.random.randint(1, 2)
    rank = len(value.shape) + count
    axes = g.random.sample(range(rank), count)
    return g.add(op, value, named={"axes": [a - rank if g.opset >= 11 and g.flip(0.3) else a for a in axes]})


@maker("Transpose")
def transpose(g: Growing, op: str) -> list[Value]:
    value = g.pick()
    perm = None if g.flip(0.2) else g.random.sample(range(len(value.shape)), len(value.shape))
    return g.add(op, value, perm=perm)


@maker("Concat")
def concat(g: Growing, op: str) -> list[Value]:
    first = g.pick(low=1)
    axis = axis_of(g, first)
    rest = []
    for _ in range(g.random.randint(0, 2)):
        sizes = list(first.shape)
        sizes[axis] = any_size(g.random)
        rest.append(of_shape(g, first.dtype, tuple(sizes)))
    return g.add(op, *g.random.sample([first, *rest], 1 + len(rest)), axis=axis)


@maker("Split")
def split(g: Growing, op: str) -> list[Value]:
    value = g.pick(low=1, where=lambda v: max(v.shape) > 1)
    axis = axis_of(g, value)
    size, count = value.shape[axis], g.random.randint(1, 3)
    if g.opset >= 18 and g.flip(0.3):
        return g.add(op, value, results=count, axis=axis, num_outputs=count)
    if size % count == 0 and g.flip(0.3):
        return g.add(op, value, results=count, axis=axis)
    cuts = sorted(g.random.randint(0, size) for _ in range(count - 1))
    parts = [b - a for a, b in zip([0, *cuts], [*cuts, size])]
    return g.add(op, value, named={"split": parts}, results=count, axis=axis)


@maker("Slice")
def slice_(g: Growing, op: str) -> list[Value]:
    value = g.pick(low=1)
    axes = axes_of(g, value)
    starts, ends, steps = [], [], []
    for axis in axes:
        size = value.shape[axis]
        steps.append(g.choice((1, 1, 1, 2, 3, -1, -2)) if g.opset >= 10 else 1)
        starts.append(g.random.randint(-size - 1, size + 1))
        # The end of the axis in the step's direction: for the other one, ONNX Runtime and the specification differ.
        far = (2**31 - 1, 2**63 - 1) if steps[-1] > 0 else (-(2**31), -(2**63))
        ends.append(g.choice((g.random.randint(-size - 1, size + 1), *far, 0)))
    if g.opset < 10:
        return g.add(op, value, starts=starts, ends=ends, axes=axes)
    dtype = g.choice(("int64", "int64", "int32"))
    if dtype == "int32":
        ends = [int(np.clip(e, -(2**31), 2**31 - 1)) for e in ends]
    return g.add(op, value, *(g.parameter(one, dtype) for one in (starts, ends, axes, steps)))


def indices(g: Growing, size: int, shape: tuple[int, ...]) -> Value:
    """Return indices into an axis of that size, from both ends: a constant or an input."""
    if size == 0 and int(np.prod(shape)):
        raise Refused("nothing to index")
    source = np.random.default_rng(g.random.getrandbits(32))
    low = -size if g.opset >= 11 and g.flip(0.3) else 0
    array = source.integers(low, max(size, low + 1), shape).astype(g.choice(("int64", "int64", "int32")))
    return g.constant(array) if g.flip() else g.input(array)


@maker("Gather")
def gather(g: Growing, op: str) -> list[Value]:
    value = g.pick(low=1)
    axis = axis_of(g, value)
    return g.add(op, value, indices(g, value.shape[axis], g.choice(((), (1,), (3,), (2, 3), (0,)))), axis=axis)


@maker("GatherElements")
def gather_elements(g: Growing, op: str) -> list[Value]:
    value = g.pick(low=1)
    axis = axis_of(g, value)
    shape = [g.random.randint(min(1, size), size) for size in value.shape]
    shape[axis] = g.choice((1, 2, 5))
    return g.add(op, value, indices(g, value.shape[axis], tuple(shape)), axis=axis)


@maker("GatherND")
def gather_nd(g: Growing, op: str) -> list[Value]:
    value = g.pick(low=1, where=lambda v: 0 not in v.shape)
    depth = g.random.randint(1, len(value.shape))
    return g.add(op, value, points(g, value, (g.choice((1, 2, 3)),), depth))


def points(g: Growing, value: Value, shape: tuple[int, ...], depth: int) -> Value:
    source = np.random.default_rng(g.random.getrandbits(32))
    array = np.stack([source.integers(0, max(1, n), shape) for n in value.shape[:depth]], -1).astype(np.int64)
    return g.constant(array) if g.flip() else g.input(array)


@maker("ScatterElements", "ScatterND")
def scatter(g: Growing, op: str) -> list[Value]:
    """Generate distinct positions, unless updates of the same position are summed in any order."""
    value = g.pick((*NUMBERS, "bool"), 1, 3, where=lambda v: 0 not in v.shape)
    how = g.choice(("none", "none", "add", "max", "min", "mul")) if g.opset >= 18 else None
    if op == "ScatterElements":
        axis = axis_of(g, value)
        shape = tuple(g.random.randint(1, n) for n in value.shape)
        order = np.random.default_rng(g.random.getrandbits(32)).permutation(value.shape[axis])[: shape[axis]]
        spread = [1] * len(shape)
        spread[axis] = -1
        where = np.broadcast_to(order.reshape(spread), shape).astype(np.int64)
        places = g.constant(where) if g.flip() else g.input(where)
        return g.add(op, value, places, g.fresh(value.dtype, shape), axis=axis, reduction=how)
    depth = g.random.randint(1, len(value.shape))
    count = 1 if how in (None, "none") else 3
    updates = g.fresh(value.dtype, (count, *value.shape[depth:]))
    return g.add(op, value, points(g, value, (count,), depth), updates, reduction=how)


@maker("Pad")
def pad(g: Growing, op: str) -> list[Value]:
    value = g.pick(dtypes_of(g, op), 1, 4)
    mode = g.choice(("constant", "constant", "reflect", "edge", *(["wrap"] if g.opset >= 19 else [])))
    low = -1 if g.flip(0.15) else 0
    pads = [g.random.randint(low, 2) if g.flip(0.7) else 0 for _ in range(2 * len(value.shape))]
    if g.opset < 11:
        return g.add(op, value, mode=mode, pads=pads, value=g.choice((0.0, 1.5)))
    filled = [g.constant(g.choice((0, 1, 3)), value.dtype)] if mode == "constant" and g.flip() else []
    return g.add(op, value, g.parameter(pads), *filled, mode=mode)


@maker("Expand")
def expand(g: Growing, op: str) -> list[Value]:
    value = g.pick(high=3)
    shape = [g.choice((2, 3)) if n == 1 and g.flip() else g.choice((n, n, 1)) for n in value.shape]
    return g.add(op, value, g.parameter([g.choice((1, 2)), *shape] if g.flip(0.3) else shape))


@maker("Tile")
def tile(g: Growing, op: str) -> list[Value]:
    value = g.pick(dtypes_of(g, op), 1, 3)
    return g.add(op, value, g.parameter([g.choice((1, 1, 2, 3, 0) if g.flip(0.1) else (1, 2)) for _ in value.shape]))


@maker("OneHot")
def one_hot(g: Growing, op: str) -> list[Value]:
    depth = g.choice((1, 3, 5))
    which = indices(g, depth, g.choice(((), (3,), (2, 3))))
    dtype = g.choice(("float32", "int64", "int32"))
    values = g.constant(g.choice(([0, 1], [5, 2])), dtype)
    return g.add(op, which, g.parameter(depth), values, axis=axis_of(g, which, 1))


@maker("EyeLike", "Trilu")
def square(g: Growing, op: str) -> list[Value]:
    value = g.pick(dtypes_of(g, op), 2, 2 if op == "EyeLike" else 4)
    k = g.random.randint(-2, 2)
    if op == "EyeLike":
        return g.add(op, value, k=k)
    return g.add(op, value, *([g.parameter(k)] if g.flip(0.7) else []), upper=g.choice((0, 1)))


@maker("Range")
def range_(g: Growing, op: str) -> list[Value]:
    dtype = g.choice(("int64", "int32", "float32", "float64", "int16"))
    step = g.choice((1, 2, -1, -2)) if dtype[0] == "i" else g.choice((1, 0.5, -0.25))
    ends = [g.random.randint(-3, 8), g.random.randint(-3, 8), step]
    return g.add(op, *(g.constant(end, dtype) if g.flip(0.7) else g.input(np.asarray(end, dtype)) for end in ends))


@maker("ConstantOfShape")
def constant_of_shape(g: Growing, op: str) -> list[Value]:
    shapes = [v for v in g.values if v.dtype == "int64" and len(v.shape) == 1 and v.array.size < 4]
    shapes = [v for v in shapes if v.array.size and (v.array >= 0).all() and v.array.max() < 20]
    return g.add(op, g.choice(shapes) if shapes and g.flip(0.8) else g.parameter([2, 3]))


@maker("DepthToSpace", "SpaceToDepth")
def depth(g: Growing, op: str) -> list[Value]:
    block = g.choice((1, 2, 3))
    n, c, h, w = (g.choice((1, 2, 3)) for _ in range(4))
    shape = (n, c * block * block, h, w) if op == "DepthToSpace" else (n, c, h * block, w * block)
    mode = g.choice(("DCR", "CRD")) if op == "DepthToSpace" else None
    return g.add(op, g.fresh("float32", shape), blocksize=block, mode=mode)


@maker("ReverseSequence")
def reverse_sequence(g: Growing, op: str) -> list[Value]:
    value = g.pick(low=2, where=lambda v: 0 not in v.shape)
    batch = g.choice((0, 1))
    lengths = [g.random.randint(1, value.shape[1 - batch]) for _ in range(value.shape[batch])]
    return g.add(op, value, g.parameter(lengths), batch_axis=batch, time_axis=1 - batch)


@maker("NonZero")
def non_zero(g: Growing, op: str) -> list[Value]:
    return g.add(op, g.pick(("float32", "int64", "int32", "bool"), 1, 3))


@maker("TopK")
def top_k(g: Growing, op: str) -> list[Value]:
    """Generate with distinct elements, because the order of equal ones is undefined."""
    value = g.pick(dtypes_of(g, op), 1, 3, where=lambda v: v.array.size > 0 and v.dtype != "bool")
    axis = axis_of(g, value)
    wide = value.array.astype(np.float64)
    if np.isnan(wide).any() or len(np.unique(wide)) < wide.size:
        raise Refused("ties")
    k = g.random.randint(1, value.shape[axis])
    how = {"largest": g.choice((0, 1)), "sorted": 1}
    if g.opset < 10:
        return g.add(op, value, axis=axis, k=k)
    return g.add(op, value, g.parameter([k]), axis=axis, **how)


@maker("ArgMax", "ArgMin")
def arg(g: Growing, op: str) -> list[Value]:
    value = g.pick(tuple(d for d in dtypes_of(g, op) if d != "bool"), 1, 4, where=lambda v: v.array.size > 0)
    if is_float(value.array) and np.isnan(value.array.astype(np.float64)).any():
        raise Refused("undefined")
    last = g.choice((0, 1)) if g.opset >= 12 else None
    return g.add(op, value, axis=axis_of(g, value), keepdims=g.choice((0, 1)), select_last_index=last)
