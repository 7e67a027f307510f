"""The models of the published benchmark, with their input sizes and batch sizes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from tools.catalogue import entry
from tools.light import LIGHT

Shapes = dict[str, tuple[int, ...]]

_TEXT = ("input_ids", "attention_mask", "token_type_ids")

SUITE: dict[str, Mapping[str, tuple[int, ...]]] = {
    "resnet50": {"gpu_0/data_0": (3, 224, 224)},
    "squeezenet": {"data_0": (3, 224, 224)},
    "shufflenet": {"gpu_0/data_0": (3, 224, 224)},
    "densenet121": {"data_0": (3, 224, 224)},
    "inception-v1": {"data_0": (3, 224, 224)},
    "inception-v2": {"data_0": (3, 224, 224)},
    "vgg19": {"data_0": (3, 224, 224)},
    "zfnet": {"gpu_0/data_0": (3, 224, 224)},
    "alexnet": {"data_0": (3, 224, 224)},
    "efficientnet-lite0": {"image": (3, 224, 224)},
    "pp-ocr-det": {"x": (3, 640, 640)},
    "pp-ocr-rec": {"x": (3, 48, 320)},
    "pp-ocr-cls": {"x": (3, 48, 192)},
    "basic-pitch": {"serving_default_input_2:0": (43844, 1)},
    "magika": {"bytes": (2048,)},
    "bert": dict.fromkeys(_TEXT, (128,)),
    "minilm": dict.fromkeys(_TEXT, (32,)),
    "fashion": {"image": (1, 28, 28)},
}
"""Model of the catalogue -> its inputs' shapes without the batch, which is their first axis."""


def shapes(name: str, batch: int) -> Shapes:
    """Input shapes of a model of the suite. Raises KeyError for another."""
    return {port: (batch, *shape) for port, shape in SUITE[name].items()}


def fixed(name: str, batch: int) -> onnx.ModelProto:
    """Return the model with all input shapes fixed, so that every runtime can plan for them.

    The architectures of the onnx package are written for one image; for more, `rebatched` rewrites them.
    """
    model = onnx.load(entry(name).path)
    return rebatched(model, batch) if name in LIGHT and batch != 1 else with_shapes(model, shapes(name, batch))


def with_shapes(model: onnx.ModelProto, sizes: Shapes) -> onnx.ModelProto:
    """Return `model` after giving its inputs these shapes."""
    for value in model.graph.input:
        if value.name in sizes:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, sizes[value.name], strict=True):
                dim.dim_value = size
    return model


def rebatched(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return `model`, written for batch size 1, after changing it to take `batch` samples in all inputs.

    The first axis of each input becomes `batch`. Constant shapes of Reshape that keep a first axis of 1 get the new
    one; recorded shapes inside are dropped. `check_rebatched` checks that nothing else is needed. Raises ValueError if
    an input's first size is not 1.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for value in model.graph.input:
        dim = value.type.tensor_type.shape.dim[0]
        if value.name not in constants:
            if dim.dim_value != 1:
                raise ValueError(f"input {value.name} is not written for batch size 1")
            dim.dim_value = batch
    for index, node in enumerate(model.graph.node):
        if node.op_type == "Reshape" and node.input[1] in constants:
            shape = numpy_helper.to_array(constants[node.input[1]]).copy()
            if shape.size and shape[0] == 1:
                shape[0] = batch
                node.input[1] = f"{node.input[1]}/batch{batch}/{index}"
                model.graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]
    return model


def check_rebatched(name: str, many: onnx.ModelProto, feed: Mapping[str, np.ndarray], tolerance: float = 1e-4) -> None:
    """Compare a batch with its samples one by one, in ONNX Runtime; ValueError where they differ.

    `tolerance` is relative to an output's largest value.
    """
    one = fixed(name, 1)
    runs = [_session(model) for model in (many, one)]
    names = [output.name for output in one.graph.output]
    together = runs[0].run(names, dict(feed))
    for sample in range(len(next(iter(feed.values())))):
        alone = runs[1].run(names, {port: array[sample : sample + 1] for port, array in feed.items()})
        for output, want, have in zip(names, alone, together, strict=True):
            top = max(float(np.abs(want).max(initial=0.0)), 1e-12)
            error = float(np.abs(have[sample : sample + 1] - want).max(initial=0.0)) / top
            if not error <= tolerance:
                raise ValueError(f"{name}: sample {sample} of {output} differs by {error:.1e} from a batch of one")


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
