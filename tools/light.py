"""The classical architectures inside the onnx package ("light" models), with full-size random weights.

Their weights are ConstantOfShape nodes there. Here each becomes an initializer of seeded values: He-scaled
kernels, small biases, positive batch-norm scales and variances; and the last layer is scaled so that its
outputs spread by about two, since a softmax fed with hundreds would hide any error. They measure speed and say
nothing of accuracy.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, shape_inference, version_converter

LIGHT = {
    "alexnet": "bvlc_alexnet",
    "densenet121": "densenet121",
    "inception-v1": "inception_v1",
    "inception-v2": "inception_v2",
    "resnet50": "resnet50",
    "shufflenet": "shufflenet",
    "squeezenet": "squeezenet",
    "vgg19": "vgg19",
    "zfnet": "zfnet512",
}
OPSET = 21
SPREAD = 2.0


def make_light(name: str, seed: int = 0) -> onnx.ModelProto:
    """The architecture with random weights, at opset 21; the same bytes for the same seed.

    KeyError for a name that LIGHT lacks. Input: 1 x 3 x 224 x 224 float32.
    """
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(folder / f"light_{LIGHT[name]}.onnx")
    model = version_converter.convert_version(model, OPSET)
    model.ir_version = 10
    _fill(model.graph, zlib.crc32(name.encode()) + seed)
    _calm(model)
    inferred: onnx.ModelProto = shape_inference.infer_shapes(model)
    del model.graph.value_info[:]
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model


def _fill(graph: onnx.GraphProto, seed: int) -> None:
    """Put seeded weights where ConstantOfShape nodes and float initializers were, in the graph's order."""
    shapes = {t.name: tuple(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    sizes = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(numpy_helper.to_array(sizes[node.input[0]]).tolist())
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    roles = _roles(kept)
    random = np.random.default_rng(seed)
    filled = [
        numpy_helper.from_array(_values(roles[name], shape, random), name)
        for name, shape in shapes.items()
        if name in roles
    ]
    used = {name for node in kept for name in node.input}
    others = [t for t in graph.initializer if t.name in used and t.name not in shapes]
    inputs = [i for i in graph.input if i.name not in sizes]
    del graph.node[:], graph.initializer[:], graph.input[:]
    graph.node.extend(kept)
    graph.initializer.extend(filled + others)
    graph.input.extend(inputs)


def _roles(nodes: list[onnx.NodeProto]) -> dict[str, tuple[str, int]]:
    """Return, for each value, the operator and the input it is read at, looking through Unsqueeze."""
    roles: dict[str, tuple[str, int]] = {}
    for node in reversed(nodes):
        for index, name in enumerate(node.input):
            through = node.op_type == "Unsqueeze" and index == 0 and node.output[0] in roles
            roles[name] = roles[node.output[0]] if through else (node.op_type, index)
    return roles


def _values(role: tuple[str, int], shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    op_type, index = role
    if op_type in ("Conv", "Gemm") and index == 1:
        fan_in = int(np.prod(shape[1:]))
        return random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
    if (op_type == "BatchNormalization" and index in (1, 4)) or op_type == "Mul":
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    return random.standard_normal(shape, np.float32) * np.float32(0.05)


def _calm(model: onnx.ModelProto) -> None:
    """Scale the last convolution or matmul so that its outputs spread by SPREAD for a random image."""
    last = next(node for node in reversed(model.graph.node) if node.op_type in ("Conv", "Gemm"))
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.append(onnx.ValueInfoProto(name=last.output[0]))
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    image = np.random.default_rng(0).standard_normal(given.shape, np.float32)
    (found,) = session.run(None, {given.name: image})
    factor = np.float32(SPREAD / max(float(np.std(found)), 1e-6))
    for tensor in model.graph.initializer:
        if tensor.name in last.input[1:]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, tensor.name))
