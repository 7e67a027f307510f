"""EfficientNet-lite0 as ONNX, from the state dict that its package ships as a `.pth` file: without torch.

The file is of PyTorch's older form: a few pickles one after the other, then each storage's bytes. Unpickling
is restricted to the four things a state dict is made of, so that a file cannot run code.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tools.builder import Builder

MAGIC = 0x1950A86A20F9469CFC6C
EPSILON = 1e-3
# Blocks, expansion, kernel, stride and output channels of each stage.
STAGES = (
    (1, 1, 3, 1, 16),
    (2, 6, 3, 2, 24),
    (2, 6, 5, 2, 40),
    (3, 6, 3, 2, 80),
    (3, 6, 5, 1, 112),
    (4, 6, 5, 2, 192),
    (1, 6, 3, 1, 320),
)


_Sizes = tuple[int, ...]


class _Storage:
    """An array of numbers that tensors are views of; its bytes come after the pickles."""

    def __init__(self, dtype: np.dtype[Any], size: int) -> None:
        self.dtype, self.size = dtype, size
        self.data = np.empty(0, dtype)


class _View:
    """The pickle's description of a tensor, kept until the storages have been read."""

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def numpy(self) -> np.ndarray:
        data = self.storage.data[self.offset :]
        last = sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if min((*self.shape, *self.stride, self.offset, 0)) < 0 or last >= len(data):
            raise ValueError("a tensor is outside its storage")
        steps = tuple(s * data.itemsize for s in self.stride)
        return np.lib.stride_tricks.as_strided(data, self.shape, steps).copy()


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _View:
    return _View(storage, offset, shape, stride)


class _Reader(pickle.Unpickler):
    """Unpickles ordered dicts, tensors and float or int64 storages; rejects anything else."""

    ALLOWED = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"a state dict contains no {module}.{name}")
        return self.ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, size, _ = pid
        return self.storages.setdefault(key, _Storage(dtype, size))


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch state dict in the older form (not a zip file); ValueError otherwise."""
    with path.open("rb") as file:
        if _Reader(file).load() != MAGIC:
            raise ValueError(f"{path} is not a PyTorch state dict of the older form")
        _Reader(file).load()  # the protocol's version
        _Reader(file).load()  # byte order and sizes
        reader = _Reader(file)
        views = reader.load()
        for key in _Reader(file).load():
            storage = reader.storages[key]
            file.read(8)  # its number of elements, known already
            storage.data = np.frombuffer(file.read(storage.size * storage.dtype.itemsize), storage.dtype)
    return {name: view.numpy() for name, view in views.items()}


class _Network(Builder):
    """Writes the layers, taking the weights from the state dict by their names in it."""

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.state = state
        self.side = 224
        self.weight("zero", np.array(0, np.float32))
        self.weight("six", np.array(6, np.float32))

    def loaded(self, name: str) -> str:
        return self.weight(name, self.state[name])

    def conv_bn(self, x: str, conv: str, bn: str, stride: int = 1, act: bool = True) -> str:
        """Convolution, batch-norm and ReLU6; padded as by TensorFlow, where the net was trained."""
        kernel = self.state[f"{conv}.weight"]
        size = kernel.shape[2]
        out = -(-self.side // stride)
        total = max((out - 1) * stride + size - self.side, 0)
        pads = [total // 2] * 2 + [total - total // 2] * 2
        group = kernel.shape[0] if "depthwise" in conv else 1
        self.side = out
        weight = self.loaded(f"{conv}.weight")
        y = self.op("Conv", [x, weight], conv, strides=[stride] * 2, pads=pads, group=group)
        parts = [self.loaded(f"{bn}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        y = self.op("BatchNormalization", [y, *parts], bn, epsilon=EPSILON)
        return self.op("Clip", [y, "zero", "six"], f"{bn}.relu6") if act else y

    def block(self, x: str, index: int, expand: int, stride: int, shortcut: bool) -> str:
        name = f"_blocks.{index}"
        y = x if expand == 1 else self.conv_bn(x, f"{name}._expand_conv", f"{name}._bn0")
        y = self.conv_bn(y, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        y = self.conv_bn(y, f"{name}._project_conv", f"{name}._bn2", act=False)
        return self.op("Add", [y, x], f"{name}.add") if shortcut else y

    def layers(self) -> None:
        x = self.conv_bn("image", "_conv_stem", "_bn0", 2)
        index, before = 0, 32
        for repeats, expand, size, stride, width in STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                assert self.state[f"_blocks.{index}._depthwise_conv.weight"].shape[2] == size
                x = self.block(x, index, expand, step, step == 1 and before == width)
                index, before = index + 1, width
        x = self.conv_bn(x, "_conv_head", "_bn1")
        x = self.op("Flatten", [self.op("GlobalAveragePool", [x], "average")], "flat")
        self.op("Gemm", [x, self.loaded("_fc.weight"), self.loaded("_fc.bias")], "logits", transB=1)


def build(path: Path) -> onnx.ModelProto:
    """The network in inference form, batch-norms unfused.

    `image` N x 3 x 224 x 224 float32, RGB, (pixel - 127) / 128, to `logits` N x 1000 over ImageNet's classes.
    """
    network = _Network(read_state_dict(path))
    network.layers()
    image = {"image": (np.float32, ("N", 3, 224, 224))}
    model = network.model("efficientnet-lite0", image, {"logits": (np.float32, ("N", 1000))})
    onnx.checker.check_model(model, full_check=True)
    return model
