"""Channel-blocked arrays, and convolutions of them with an epilogue, for tests of kernel families."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.machine import Machine
from tests.targets.schedule.support import execute, placeholder, scheduled


def blocked(array: np.ndarray, lanes: int, fill: float = np.nan) -> np.ndarray:
    """N, C, D... as N, C/v, D..., v with `fill` in the lanes beyond the last channel."""
    batch, channels, *space = array.shape
    blocks = -(-channels // lanes)
    full = np.full((batch, blocks * lanes, *space), fill, array.dtype)
    full[:, :channels] = array
    return np.ascontiguousarray(np.moveaxis(full.reshape(batch, blocks, lanes, *space), 2, -1))


def plain(array: np.ndarray, channels: int) -> np.ndarray:
    """The first `channels` channels of a blocked array as N, C, D..."""
    moved = np.moveaxis(array, -1, 2)
    return moved.reshape(moved.shape[0], -1, *moved.shape[3:])[:, :channels]


def onnx_conv(data: np.ndarray, weight: np.ndarray, workload: ConvWorkload) -> np.ndarray:
    """ONNX Runtime's convolution."""
    spec = workload.spec
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        strides=spec.strides,
        dilations=spec.dilations,
        pads=[*spec.pads_begin, *spec.pads_end],
        group=spec.groups,
    )
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, data.shape)]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "conv", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": data})[0]


def check_convolution(
    workload: ConvWorkload,
    machine: Machine,
    packed: Callable[[np.ndarray], np.ndarray],
    kernel: Callable[[te.Tensor, te.Tensor], te.Tensor],
    schedule: str,
) -> None:
    """Run a convolution with bias, residual and ReLU after it, NaN in the lanes that must not be read, and compare.

    `schedule` is the beginning of what the scheduled function must say of itself: that the family claimed it.
    """
    spec, lanes = workload.spec, workload.lanes
    rng = np.random.default_rng(5)
    data = rng.standard_normal((workload.batch or 1, spec.in_channels, *workload.space)).astype(np.float32)
    weight = rng.standard_normal((spec.out_channels, spec.in_channels // spec.groups, *spec.kernel)).astype(np.float32)
    expected = onnx_conv(data, weight, workload)
    arrays = [blocked(data, lanes) if workload.blocked else data, packed(weight)]
    x, w = (placeholder(array.shape, name=name) for array, name in zip(arrays, "xw", strict=True))
    out = kernel(x, w)
    shape = [int(size) for size in out.shape]
    other = rng.standard_normal(expected.shape).astype(np.float32)
    bias = rng.standard_normal((1, spec.out_channels, *[1] * len(workload.space))).astype(np.float32)
    arrays += [blocked(other, lanes), blocked(bias, lanes)]
    r, b = (placeholder(array.shape, name=name) for array, name in zip(arrays[2:], "rb", strict=True))
    biased = te.compute(out.shape, lambda n, c, *i: out(n, c, *i) + b(0, c, *[0] * (len(i) - 1), i[-1]), name="biased")
    added = te.compute(out.shape, lambda *i: biased(*i) + r(*i), name="added")
    relu = te.compute(out.shape, lambda *i: tirx.max(added(*i), tirx.const(0, "float32")), name="relu")
    func = scheduled([x, w, r, b, relu], machine)
    assert str(func.attrs["graphopt.schedule"]).startswith(schedule)
    (result,) = execute(func, arrays, [np.zeros(shape, np.float32)])
    expected = np.maximum(expected + bias + other, 0)
    found = plain(result, spec.out_channels)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=1e-3))
