"""Graphs of any number of nodes with tiny weights, to measure how the time of passes grows with the size.

The mix is that of exported networks: convolutions with batch-norm, residuals, activations written out,
`view`s by shape arithmetic, transposes there and back, no-ops.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tools.builder import Builder

CHANNELS, SIDE = 4, 6


class _Blocks(Builder):
    """Blocks from a N x 4 x 6 x 6 value to another, whose sizes of numbers they keep."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)
        self.blocks: tuple[Callable[[str, str], str], ...] = (
            self.residual,
            self.silu,
            self.views,
            self.gelu,
            self.there_and_back,
        )

    def next(self, x: str, index: int) -> str:
        return self.blocks[index % len(self.blocks)](x, f"b{index}")

    def conv_bn(self, x: str, name: str) -> str:
        kernel = self.random.standard_normal((CHANNELS, CHANNELS, 3, 3), np.float32)
        scale = np.float32(np.sqrt(2 / (9 * CHANNELS)))
        y = self.op("Conv", [x, self.weight(f"{name}.w", kernel * scale)], f"{name}/conv", pads=[1, 1, 1, 1])
        low = (0.5, -0.1, -0.1, 0.5)
        high = (1.5, 0.1, 0.1, 1.5)
        parts = [
            self.weight(f"{name}.bn{i}", self.random.uniform(low[i], high[i], CHANNELS).astype(np.float32))
            for i in range(4)
        ]
        return self.op("BatchNormalization", [y, *parts], f"{name}/bn")

    def number(self, value: float, name: str) -> str:
        return self.constant(value, np.float32, name)

    def residual(self, x: str, name: str) -> str:
        y = self.op("Relu", [self.conv_bn(x, f"{name}.1")], f"{name}/relu")
        y = self.conv_bn(y, f"{name}.2")
        y = self.op("Tanh", [self.op("Add", [y, x], f"{name}/add")], f"{name}/tanh")
        return self.op("Identity", [y], f"{name}/identity")

    def silu(self, x: str, name: str) -> str:
        y = self.op("Mul", [x, self.op("Sigmoid", [x], f"{name}/sigmoid")], f"{name}/mul")
        y = self.op("Mul", [y, self.number(1.5, f"{name}/scale")], f"{name}/scaled")
        return self.op("Add", [y, self.number(0.1, f"{name}/shift")], f"{name}/shifted")

    def gelu(self, x: str, name: str) -> str:
        y = self.op("Erf", [self.op("Div", [x, self.number(2**0.5, f"{name}/root")], f"{name}/div")], f"{name}/erf")
        y = self.op("Add", [y, self.number(1, f"{name}/one")], f"{name}/add")
        y = self.op("Mul", [self.op("Mul", [x, y], f"{name}/mul"), self.number(0.5, f"{name}/half")], f"{name}/out")
        return self.op("Cast", [y], f"{name}/cast", to=onnx.TensorProto.FLOAT)

    def views(self, x: str, name: str) -> str:
        """`x.view(x.size(0), 4, 36)` and back, as exporters write them."""
        shape = self.op("Shape", [x], f"{name}/shape")
        batch = self.op("Gather", [shape, self.constant(0, np.int64, f"{name}/index")], f"{name}/batch", axis=0)
        batch = self.op("Unsqueeze", [batch, self.constant([0], np.int64, f"{name}/axes")], f"{name}/batch_1d")
        flat = self.constant([CHANNELS, SIDE * SIDE], np.int64, f"{name}/flat")
        full = self.constant([CHANNELS, SIDE, SIDE], np.int64, f"{name}/full")
        there = self.op("Concat", [batch, flat], f"{name}/there", axis=0)
        back = self.op("Concat", [batch, full], f"{name}/back", axis=0)
        y = self.op("Softmax", [self.op("Reshape", [x, there], f"{name}/view")], f"{name}/softmax", axis=-1)
        return self.op("Add", [x, self.op("Reshape", [y, back], f"{name}/unview")], f"{name}/add")

    def there_and_back(self, x: str, name: str) -> str:
        y = self.op("Transpose", [x], f"{name}/nhwc", perm=[0, 2, 3, 1])
        y = self.op("HardSigmoid", [y], f"{name}/gate")
        y = self.op("Transpose", [y], f"{name}/nchw", perm=[0, 3, 1, 2])
        return self.op("Mul", [x, y], f"{name}/mul")


def make_large(n_nodes: int, shape: str = "chain", seed: int = 0) -> onnx.ModelProto:
    """A graph of at least `n_nodes` nodes and at most some tens more; `x` to `y`, N x 4 x 6 x 6 float32.

    `shape`: "chain" is one block after the other, as deep as it has nodes; "wide" is branches of five blocks,
    all reading `x`, summed pair by pair. Opset 18. ValueError for another shape.
    """
    if shape not in ("chain", "wide"):
        raise ValueError(f"shape {shape!r} is neither 'chain' nor 'wide'")
    blocks = _Blocks(seed)
    result = _chain(blocks, n_nodes) if shape == "chain" else _wide(blocks, n_nodes)
    blocks.op("Identity", [result], "y")
    size = ("N", CHANNELS, SIDE, SIDE)
    return blocks.model(shape, {"x": (np.float32, size)}, {"y": (np.float32, size)})


def _chain(blocks: _Blocks, n_nodes: int) -> str:
    x, index = "x", 0
    while len(blocks.nodes) < n_nodes - 1:
        x, index = blocks.next(x, index), index + 1
    return x


def _wide(blocks: _Blocks, n_nodes: int) -> str:
    ends: list[str] = []
    index = 0
    # Each branch but the first costs one Add more when they are summed.
    while len(blocks.nodes) + len(ends) < n_nodes:
        x = "x"
        for _ in range(5):
            x, index = blocks.next(x, index), index + 1
        ends.append(x)
    level = 0
    while len(ends) > 1:
        pairs = zip(ends[::2], ends[1::2])
        sums = [blocks.op("Add", pair, f"sum{level}.{i}") for i, pair in enumerate(pairs)]
        ends, level = sums + ends[len(sums) * 2 :], level + 1
    return ends[0] if ends else "x"
