"""A model of integer convolutions and matmuls of odd shapes, whose results are integers, equal on all machines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir import Model
from tests.helpers import model_of

DQ, Q = "DequantizeLinear", "QuantizeLinear"
_CONVOLUTIONS = {
    "padded": (5, 7, 1, 3, "pads = [1,1,1,1]"),
    "strided": (19, 33, 1, 1, "strides = [2,2]"),
    "grouped": (24, 48, 3, 3, "group = 3, pads = [1,0,1,0]"),
    "narrow groups": (12, 9, 3, 3, "group = 3"),
    "dilated": (16, 40, 1, 3, "dilations = [2,1], pads = [2,1,2,1]"),
    "first": (3, 24, 1, 5, "strides = [2,1], pads = [2,2,2,2]"),
    "depthwise": (21, 21, 21, 3, "group = 21, strides = [2,1], pads = [1,1,1,1]"),
}
"""Channels of the data and the result, groups, size of the window, attributes."""
_SMALL = ("grouped", "dilated")
"""Those whose weights have 7 bits, which some processors multiply in another way."""


def integer_kernels(convolutions: Sequence[str] = tuple(_CONVOLUTIONS)) -> tuple[Model, dict[str, np.ndarray]]:
    """Return the model and its inputs: exact sums, and bytes rounded from sums, with zero points that are not 0."""
    random = np.random.default_rng(7)

    def numbers(dtype: str, *shape: int) -> np.ndarray:
        info = np.iinfo(dtype)
        return random.integers(info.min, info.max, shape, endpoint=True).astype(dtype)

    weights = {"s": np.float32(0.05), "z": np.uint8(3), "t": np.float32(9.5), "y": np.uint8(120), "h": np.float32(0.01)}
    feeds: dict[str, np.ndarray] = {}
    inputs, outputs, body = [], [], []
    for number, name in enumerate(convolutions):
        channels, results, groups, size, attributes = _CONVOLUTIONS[name]
        feeds[f"X{number}"] = numbers("uint8", 1, channels, 9, 11)
        weights[f"w{number}"] = numbers("int8", results, channels // groups, size, size) // (2 if name in _SMALL else 1)
        weights[f"c{number}"] = random.uniform(0.005, 0.02, results).astype(np.float32)
        inputs.append(f"uint8[1,{channels},9,11] X{number}")
        outputs += [f"int32[N,C,H,W] S{number}", f"uint8[N,C,H,W] Y{number}"]
        body.append(f"""S{number} = ConvInteger<{attributes}>(X{number}, w{number})
            x{number} = {DQ}(X{number}, s, z) k{number} = {DQ}<axis = 0>(w{number}, c{number})
            v{number} = Conv<{attributes}>(x{number}, k{number}) Y{number} = {Q}(v{number}, t, y)""")
    for name, m, k, n in (("A", 5, 7, 33), ("B", 1, 70, 10), ("C", 13, 31, 64)):
        feeds[name] = numbers("uint8", m, k)
        weights[f"m{name}"] = numbers("int8", k, n) // (2 if name == "C" else 1)
        inputs.append(f"uint8[{m},{k}] {name}")
        outputs += [f"int32[{m},{n}] S{name}", f"uint8[{m},{n}] Y{name}"]
        body.append(f"""S{name} = MatMulInteger({name}, m{name}, z) x{name} = {DQ}({name}, s, z)
            k{name} = {DQ}(m{name}, h) v{name} = MatMul(x{name}, k{name}) Y{name} = {Q}(v{name}, t, y)""")
    feeds |= {"P": numbers("uint8", 2, 3, 9, 18), "R": numbers("uint8", 2, 3, 18, 11)}
    inputs += ["uint8[2,3,9,18] P", "uint8[2,3,18,11] R"]
    outputs.append("uint8[2,3,9,11] YP")
    body.append(f"p = {DQ}(P, s, z) r = {DQ}(R, h, y) vp = MatMul(p, r) YP = {Q}(vp, t, y)")
    text = f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {' '.join(body)} }}"
    return model_of(text, weights), feeds
