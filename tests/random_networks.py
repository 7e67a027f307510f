"""Random networks of the motifs that passes look for, exact and near misses, wired as in real models.

Weights are shared, intermediate values of a pattern are graph outputs or have second users, sizes may be symbolic,
constants are initializers or `Constant` nodes. The same seed gives the same network.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = tuple[int, ...]


class Network:
    """A network that grows motif by motif; `shapes` knows the static shape of every value, for batch `BATCH`."""

    BATCH = 2

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, Shape] = {}
        self.kept: list[str] = []
        self.symbolic = self.flip()
        self.count = 0

    def flip(self, chance: float = 0.5) -> bool:
        return self.random.random() < chance

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def op(self, op: str, *inputs: str, shape: Shape | None = None, real: bool = True, **attributes: object) -> str:
        """A node; its output has the shape of the first input unless told otherwise.

        Outputs that are not `real` (float32) are named otherwise, and no motif takes them up by chance.
        """
        name = self.name("v" if real else "i")
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=self.name(f"{op}_"), **attributes))
        self.shapes[name] = self.shapes[inputs[0]] if shape is None else shape
        if real and self.flip(0.02):
            self.kept.append(name)
        return name

    def const(self, array: np.ndarray | float | list[float], dtype: type = np.float32) -> str:
        array = np.asarray(array, dtype)
        name = self.name("w" if dtype is np.float32 else "c")
        if self.flip(0.3):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.weights.append(numpy_helper.from_array(array, name))
        self.shapes[name] = array.shape
        return name

    def ints(self, *numbers: int) -> str:
        return self.const(list(numbers), np.int64)

    def weight(self, *shape: int) -> str:
        """A random weight; now and then one that there is already."""
        same = [name for name, known in self.shapes.items() if name.startswith("w") and known == shape]
        if same and self.flip(0.2):
            return self.random.choice(same)
        return self.const(self.rng.normal(size=shape) / max(1, np.prod(shape[1:])) ** 0.5)

    def positive(self, *shape: int) -> str:
        return self.const(self.rng.uniform(0.5, 1.5, shape))

    def model(self, inputs: dict[str, Shape], outputs: list[str]) -> onnx.ModelProto:
        names = list(dict.fromkeys([*outputs, *self.kept]))
        dims = {name: ["N" if self.symbolic and i == 0 else d for i, d in enumerate(s)] for name, s in inputs.items()}
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, d) for n, d in dims.items()],
            [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None] * len(self.shapes[n])) for n in names],
            self.weights,
        )
        opset = self.random.choice([18, 20, 21, 23])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def random_network(seed: int, motifs: int = 8) -> onnx.ModelProto:
    """The network of a seed: convolutions on pictures, or matrix products on sequences, often one after the other."""
    net = Network(seed)
    if net.flip():
        shape: Shape = (net.BATCH, net.random.choice([1, 3, 4]), 8, 8)
        choices: list[Callable[[Network, str], str]] = list(PICTURES)
    else:
        shape = (net.BATCH, 6, 8)
        choices = list(SEQUENCES)
    net.shapes["x"] = shape
    value = "x"
    for _ in range(motifs):
        if len(net.shapes[value]) == 4 and net.flip(0.1):
            value, choices = _picture_to_sequence(net, value), list(SEQUENCES)
        earlier = [n for n, s in net.shapes.items() if n.startswith("v") and s == net.shapes[value] and n != value]
        if earlier and net.flip(0.25):
            value = net.op("Add", *net.random.sample([value, net.random.choice(earlier)], 2))
        value = net.random.choice(choices)(net, value)
        if net.flip(0.3):
            value = net.random.choice(NOISE)(net, value)
    if not value.startswith("v"):
        value = net.op("Neg", value)
    return net.model({"x": shape}, [value])


def _picture_to_sequence(net: Network, x: str) -> str:
    n, c, h, w = net.shapes[x]
    flat = net.op("Reshape", x, net.ints(0, c, h * w), shape=(n, c, h * w))
    rows = net.op("Transpose", flat, perm=[0, 2, 1], shape=(n, h * w, c))
    return net.op("MatMul", rows, net.weight(c, 8), shape=(n, h * w, 8))


# -- pictures -----------------------------------------------------------------------------------------------


def conv(net: Network, x: str) -> str:
    n, c, h, w = net.shapes[x]
    kernel = net.random.choice([1, 3])
    groups = c if c > 1 and net.flip(0.2) else 1
    out = c if groups > 1 else net.random.choice([2, 4, c])
    inputs = [x, net.weight(out, c // groups, kernel, kernel)]
    if net.flip():
        inputs.append(net.weight(out))
    pads = [kernel // 2] * 4
    return net.op("Conv", *inputs, shape=(n, out, h, w), pads=pads, group=groups, kernel_shape=[kernel] * 2)


def conv_transpose(net: Network, x: str) -> str:
    n, c, h, w = net.shapes[x]
    inputs = [x, net.weight(c, 3, 1, 1)]
    if net.flip():
        inputs.append(net.weight(3))
    return net.op("ConvTranspose", *inputs, shape=(n, 3, h, w), kernel_shape=[1, 1])


def batch_norm(net: Network, x: str) -> str:
    c = net.shapes[x][1]
    stats = [net.weight(c), net.weight(c), net.weight(c), net.positive(c)]
    return net.op("BatchNormalization", x, *stats, epsilon=net.random.choice([1e-5, 1e-3]))


def conv_bn(net: Network, x: str) -> str:
    return batch_norm(net, net.random.choice([conv, conv, conv_transpose])(net, x))


def affine(net: Network, x: str) -> str:
    c, h, w = net.shapes[x][1:]
    shape = net.random.choice([(c, 1, 1), (1, c, 1, 1), (1,), (), (c, h, w), (1, 1, 1, w)])
    op = net.random.choice(["Add", "Sub", "Mul", "Div"])
    inputs = [x, net.positive(*shape)]
    if net.flip(0.3):
        inputs.reverse()
    return net.op(op, *inputs, shape=net.shapes[x])


def padded_conv(net: Network, x: str) -> str:
    n, c, h, w = net.shapes[x]
    begin = net.random.choice([[0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]])
    mode = net.random.choice(["constant", "constant", "edge", "constant" if begin[1] else "reflect"])
    inputs = [x, net.ints(*begin, 0, 0, 1, 1)]
    if mode == "constant" and net.flip():
        inputs.append(net.const(net.random.choice([0.0, 0.0, 1.0])))
    shape = (n, c + begin[1], h + begin[2] + 1, w + begin[3] + 1)
    padded = net.op("Pad", *inputs, shape=shape, mode=mode)
    if net.flip(0.3):
        pool = net.random.choice(["MaxPool", "AveragePool"])
        out = (*shape[:2], shape[2] - 1, shape[3] - 1)
        return net.op(pool, padded, shape=out, kernel_shape=[2, 2])
    weight = net.weight(4, shape[1], 2, 2)
    return net.op("Conv", padded, weight, shape=(n, 4, shape[2] - 1, shape[3] - 1), kernel_shape=[2, 2])


def activation(net: Network, x: str) -> str:
    kind = net.random.choice(["Relu", "clip", "silu", "hard swish", "hard sigmoid", "LeakyRelu", "Sigmoid"])
    if kind == "clip":
        return net.op("Clip", x, net.const(0.0), net.const(6.0))
    if kind == "silu":
        return net.op("Mul", *net.random.sample([x, net.op("Sigmoid", x)], 2), shape=net.shapes[x])
    if kind in ("hard swish", "hard sigmoid"):
        three = net.random.choice([3.0, 3.0, 2.5])
        clipped = net.op("Clip", net.op("Add", x, net.const(three)), net.const(0.0), net.const(6.0))
        if kind == "hard sigmoid":
            return net.op("Div", clipped, net.const(6.0))
        if net.flip():
            return net.op("Div", net.op("Mul", x, clipped), net.const(6.0))
        return net.op("Mul", x, net.op("Mul", clipped, net.const(1 / 6)))
    return net.op(kind, x)


def squeeze_excite(net: Network, x: str) -> str:
    n, c = net.shapes[x][:2]
    pooled = net.op("GlobalAveragePool", x, shape=(n, c, 1, 1))
    scale = net.op("Conv", pooled, net.weight(c, c, 1, 1), shape=(n, c, 1, 1))
    return net.op("Mul", x, net.op("HardSigmoid", scale, alpha=1 / 6))


PICTURES = (conv, conv_bn, conv_bn, batch_norm, affine, padded_conv, activation, activation, squeeze_excite)


# -- sequences ----------------------------------------------------------------------------------------------


def linear(net: Network, x: str) -> str:
    n, s, d = net.shapes[x]
    out = net.op("MatMul", x, net.weight(d, d), shape=(n, s, d))
    if net.flip(0.7):
        bias = net.weight(*net.random.choice([(d,), (d,), (1, 1, d), (1,), (s, d)]))
        out = net.op("Add", *net.random.sample([out, bias], 2), shape=(n, s, d))
    return out


def matmul_chain(net: Network, x: str) -> str:
    n, s, d = net.shapes[x]
    narrow = net.op("MatMul", x, net.weight(d, 2), shape=(n, s, 2))
    return net.op("MatMul", narrow, net.weight(2, d), shape=(n, s, d))


def gemm(net: Network, x: str) -> str:
    n, s, d = net.shapes[x]
    flat = net.op("Reshape", x, net.ints(-1, d), shape=(n * s, d))
    across = net.flip()
    inputs = [flat, net.weight(d, d)]
    if net.flip():
        inputs.append(net.weight(d))
    shape = (n * s, d)
    alpha, beta = net.random.choice([1.0, 0.5]), net.random.choice([1.0, 2.0])
    out = net.op("Gemm", *inputs, shape=shape, transB=int(across), alpha=alpha, beta=beta)
    if net.flip():
        stats = [net.weight(d), net.weight(d), net.weight(d), net.positive(d)]
        out = net.op("BatchNormalization", out, *stats)
    return net.op("Reshape", out, net.ints(-1, s, d), shape=(n, s, d))


def flat_matmul(net: Network, x: str) -> str:
    """A product of matrices with a bias, the one or the other transposed by a node."""
    n, s, d = net.shapes[x]
    flat = net.op("Reshape", x, net.ints(-1, d), shape=(n * s, d))
    if net.flip(0.3):
        flat = net.op("Transpose", net.op("Transpose", flat, shape=(d, n * s)), shape=(n * s, d))
    weight = net.op("Transpose", net.weight(d, d)) if net.flip() else net.weight(d, d)
    out = net.op("MatMul", flat, weight, shape=(n * s, d))
    if net.flip(0.7):
        out = net.op("Add", out, net.weight(*net.random.choice([(d,), (1, d), (1,)])), shape=(n * s, d))
    if net.flip(0.3):
        gram = net.op("MatMul", net.op("Transpose", out, shape=(d, n * s)), out, shape=(d, d))
        out = net.op("MatMul", out, gram, shape=(n * s, d))
    return net.op("Reshape", out, net.ints(-1, s, d), shape=(n, s, d))


def layer_norm(net: Network, x: str) -> str:
    axis = net.ints(net.random.choice([-1, -1, 2, 1]))
    d = net.shapes[x][2]
    mean = net.op("ReduceMean", x, axis, keepdims=1)
    centred = net.op("Sub", x, mean, shape=net.shapes[x])
    if net.flip():
        square = net.op("Pow", centred, net.const(2.0))
    else:
        square = net.op("Mul", centred, centred)
    variance = net.op("ReduceMean", square, axis, keepdims=1)
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-5)))
    out = net.op("Div", centred, deviation, shape=net.shapes[x])
    if net.flip(0.8):
        out = net.op("Mul", out, net.positive(d))
        out = net.op("Add", out, net.weight(d)) if net.flip(0.8) else out
    return out


def rms_norm(net: Network, x: str) -> str:
    mean = net.op("ReduceMean", net.op("Pow", x, net.const(2.0)), net.ints(-1), keepdims=1)
    root = net.op("Sqrt", net.op("Add", mean, net.const(1e-6)))
    if net.flip():
        out = net.op("Div", x, root, shape=net.shapes[x])
    else:
        out = net.op("Mul", x, net.op("Reciprocal", root), shape=net.shapes[x])
    return net.op("Mul", net.positive(net.shapes[x][2]), out, shape=net.shapes[x])


def gelu(net: Network, x: str) -> str:
    if net.flip(0.3):
        cube = net.op("Mul", net.op("Pow", x, net.const(3.0)), net.const(0.044715))
        inner = net.op("Tanh", net.op("Mul", net.op("Add", x, cube), net.const(0.7978845834732056)))
        return net.op("Mul", net.op("Mul", x, net.const(0.5)), net.op("Add", inner, net.const(1.0)))
    root = net.random.choice([2**0.5, 2**0.5, 1.4])
    erf = net.op("Erf", net.op("Div", x, net.const(root)))
    if net.flip():
        return net.op("Mul", net.op("Mul", x, net.op("Add", erf, net.const(1.0))), net.const(0.5))
    return net.op("Mul", net.op("Mul", x, net.const(0.5)), net.op("Add", erf, net.const(1.0)))


def softmax(net: Network, x: str) -> str:
    axis = net.ints(-1)
    if net.flip():
        x = net.op("Sub", x, net.op("ReduceMax", x, axis, keepdims=1), shape=net.shapes[x])
    else:
        x = net.op("Tanh", x)  # or the powers overflow, and the single operator is right where the parts are NaN
    power = net.op("Exp", x)
    return net.op("Div", power, net.op("ReduceSum", power, axis, keepdims=1), shape=net.shapes[x])


def attention(net: Network, x: str) -> str:
    n, s, d = net.shapes[x]
    heads = net.random.choice([1, 2, 4])
    depth = d // heads

    def project(perm: list[int]) -> str:
        split = net.op("Reshape", linear(net, x), net.ints(0, -1, heads, depth), shape=(n, s, heads, depth))
        shape = tuple((n, s, heads, depth)[axis] for axis in perm)
        return net.op("Transpose", split, perm=perm, shape=shape)

    q, v = project([0, 2, 1, 3]), project([0, 2, 1, 3])
    k = project([0, 2, 3, 1])
    scores = net.op("MatMul", q, k, shape=(n, heads, s, s))
    if net.flip(0.8):
        scores = net.op("Div", scores, net.const(depth**0.5))
    if net.flip(0.4):
        mask = net.rng.choice([0.0, -10000.0], (s, s), p=[0.8, 0.2])
        scores = net.op("Add", scores, net.const(mask))
    weights = net.op("Softmax", scores, axis=net.random.choice([-1, 3]))
    out = net.op("MatMul", weights, v, shape=(n, heads, s, depth))
    merged = net.op("Transpose", out, perm=[0, 2, 1, 3], shape=(n, s, heads, depth))
    return linear(net, net.op("Reshape", merged, net.ints(0, 0, d), shape=(n, s, d)))


def parallel(net: Network, x: str) -> str:
    """Several products of one input, added up."""
    first, *others = (linear(net, x) for _ in range(net.random.choice([2, 3])))
    for other in others:
        first = net.op("Add", first, other)
    return first


def transposed(net: Network, x: str) -> str:
    n, s, d = net.shapes[x]
    turned = net.op("Transpose", x, perm=[0, 2, 1], shape=(n, d, s))
    if net.flip():
        square = net.op("MatMul", turned, x, shape=(n, d, d))
        return net.op("MatMul", x, square, shape=(n, s, d))
    back = net.op("Relu", turned)
    return net.op("Transpose", back, perm=[0, 2, 1], shape=(n, s, d))


SEQUENCES = (
    *(linear, matmul_chain, gemm, flat_matmul, layer_norm, layer_norm, rms_norm, gelu, gelu),
    *(softmax, attention, attention, parallel, transposed, activation),
)


# -- what exporters leave behind -----------------------------------------------------------------------------


def same(net: Network, x: str) -> str:
    kind = net.random.choice(["Identity", "Dropout", "cast", "one", "zero", "neg"])
    if kind == "cast":
        wider = net.op("Cast", x, to=onnx.TensorProto.DOUBLE, real=False)
        return net.op("Cast", wider, to=onnx.TensorProto.FLOAT)
    if kind == "one":
        return net.op("Mul", x, net.const(1.0))
    if kind == "zero":
        return net.op("Add", x, net.const(0.0))
    if kind == "neg":
        return net.op("Neg", net.op("Neg", x))
    return net.op(kind, x)


def reshaped(net: Network, x: str) -> str:
    shape = net.shapes[x]
    flat = net.op("Flatten", x, axis=1, shape=(shape[0], int(np.prod(shape[1:]))))
    return net.op("Reshape", flat, net.ints(-1, *shape[1:]), shape=shape)


def reshaped_by_arithmetic(net: Network, x: str) -> str:
    """To (batch, rest) and back, by sizes computed in the graph."""
    shape = net.shapes[x]
    size = net.op("Shape", x, shape=(len(shape),), real=False)
    batch = net.op("Gather", size, net.const(0, np.int64), axis=0, shape=(), real=False)
    first = net.op("Unsqueeze", batch, net.ints(0), shape=(1,), real=False)
    target = net.op("Concat", first, net.ints(-1), axis=0, shape=(2,), real=False)
    rest = int(np.prod(shape[1:]))
    flat = net.op("Reshape", x, target, shape=(shape[0], rest))
    return net.op("Reshape", net.op("Relu", flat), size, shape=shape)


def squeezed(net: Network, x: str) -> str:
    shape = net.shapes[x]
    wider = net.op("Unsqueeze", x, net.ints(1), shape=(shape[0], 1, *shape[1:]))
    return net.op("Squeeze", wider, net.ints(1), shape=shape)


def branched(net: Network, x: str) -> str:
    """An If on a constant, or on the largest number, whose branches capture outer values."""
    shape = net.shapes[x]
    if net.flip():
        condition = net.const(net.flip(), np.bool_)
    else:
        largest = net.op("ReduceMax", x, shape=(), keepdims=0)
        condition = net.op("Greater", largest, net.const(1.0), shape=(), real=False)
    scale = net.weight(shape[-1])

    def branch(name: str, op: str) -> onnx.GraphProto:
        inner, out = net.name("inner"), net.name("inner")
        nodes = [helper.make_node("Mul", [x, scale], [inner]), helper.make_node(op, [inner], [out])]
        info = helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, [None] * len(shape))
        return helper.make_graph(nodes, name, [], [info])

    return net.op("If", condition, shape=shape, then_branch=branch("yes", "Relu"), else_branch=branch("no", "Neg"))


NOISE = (same, same, reshaped, reshaped_by_arithmetic, squeezed, branched)
