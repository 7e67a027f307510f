"""A BERT-like encoder with random weights, exported as naively as PyTorch's tracing exporter does it.

Nothing is fused: each layer-norm is nine nodes, each GELU five around an Erf, attention is separate Q, K and
V products with the shape arithmetic of `view` between them, and the mask is built by arithmetic on floats.
"""

from __future__ import annotations

import numpy as np
import onnx

from tools.builder import Builder

LOWEST = float(np.finfo(np.float32).min)


class _Encoder(Builder):
    def __init__(self, hidden: int, heads: int, seed: int) -> None:
        super().__init__()
        self.hidden, self.heads = hidden, heads
        self.random = np.random.default_rng(seed)

    def normal(self, name: str, *shape: int) -> str:
        return self.weight(name, self.random.standard_normal(shape, np.float32) * np.float32(0.02))

    def number(self, value: float, name: str) -> str:
        return self.constant(value, np.float32, name)

    def linear(self, x: str, name: str, width_in: int, width: int) -> str:
        y = self.op("MatMul", [x, self.normal(f"{name}.weight", width_in, width)], f"{name}/MatMul")
        return self.op("Add", [self.normal(f"{name}.bias", width), y], f"{name}/Add")

    def layer_norm(self, x: str, name: str) -> str:
        mean = self.op("ReduceMean", [x], f"{name}/ReduceMean", axes=[-1], keepdims=1)
        centred = self.op("Sub", [x, mean], f"{name}/Sub")
        square = self.op("Pow", [centred, self.number(2, f"{name}/two")], f"{name}/Pow")
        variance = self.op("ReduceMean", [square], f"{name}/ReduceMean_1", axes=[-1], keepdims=1)
        shifted = self.op("Add", [variance, self.number(1e-12, f"{name}/epsilon")], f"{name}/Add")
        root = self.op("Sqrt", [shifted], f"{name}/Sqrt")
        y = self.op("Div", [centred, root], f"{name}/Div")
        scale = self.weight(
            f"{name}.weight", 1 + self.random.standard_normal(self.hidden, np.float32) * np.float32(0.1)
        )
        y = self.op("Mul", [y, scale], f"{name}/Mul")
        return self.op("Add", [y, self.normal(f"{name}.bias", self.hidden)], f"{name}/Add_1")

    def gelu(self, x: str, name: str) -> str:
        y = self.op("Div", [x, self.number(np.sqrt(2), f"{name}/root")], f"{name}/Div")
        y = self.op("Erf", [y], f"{name}/Erf")
        y = self.op("Add", [y, self.number(1, f"{name}/one")], f"{name}/Add")
        y = self.op("Mul", [x, y], f"{name}/Mul")
        return self.op("Mul", [y, self.number(0.5, f"{name}/half")], f"{name}/Mul_1")

    def view(self, x: str, name: str, *rest: int) -> str:
        """`x.view(x.size(0), x.size(1), *rest)`: a reshape to a shape computed from the input's own."""
        parts = []
        for axis in (0, 1):
            shape = self.op("Shape", [x], f"{name}/Shape_{axis}")
            index = self.constant(axis, np.int64, f"{name}/index_{axis}")
            size = self.op("Gather", [shape, index], f"{name}/Gather_{axis}", axis=0)
            axes = self.constant([0], np.int64, f"{name}/axes_{axis}")
            parts.append(self.op("Unsqueeze", [size, axes], f"{name}/Unsqueeze_{axis}"))
        parts += [self.constant([n], np.int64, f"{name}/size_{i}") for i, n in enumerate(rest)]
        return self.op("Reshape", [x, self.op("Concat", parts, f"{name}/Concat", axis=0)], f"{name}/Reshape")

    def split_heads(self, x: str, name: str, perm: list[int]) -> str:
        y = self.linear(x, name, self.hidden, self.hidden)
        y = self.view(y, f"{name}/view", self.heads, self.hidden // self.heads)
        return self.op("Transpose", [y], f"{name}/Transpose", perm=perm)

    def attention(self, x: str, mask: str, name: str) -> str:
        query = self.split_heads(x, f"{name}/query", [0, 2, 1, 3])
        key = self.split_heads(x, f"{name}/key", [0, 2, 3, 1])
        value = self.split_heads(x, f"{name}/value", [0, 2, 1, 3])
        scores = self.op("MatMul", [query, key], f"{name}/MatMul")
        scale = self.number(np.sqrt(self.hidden // self.heads), f"{name}/scale")
        scores = self.op("Div", [scores, scale], f"{name}/Div")
        scores = self.op("Add", [scores, mask], f"{name}/Add")
        scores = self.op("Softmax", [scores], f"{name}/Softmax", axis=-1)
        y = self.op("MatMul", [scores, value], f"{name}/MatMul_1")
        y = self.op("Transpose", [y], f"{name}/Transpose", perm=[0, 2, 1, 3])
        return self.view(y, f"{name}/view", self.hidden)

    def layer(self, x: str, mask: str, name: str) -> str:
        y = self.attention(x, mask, f"{name}/attention/self")
        y = self.linear(y, f"{name}/attention/output", self.hidden, self.hidden)
        x = self.op("Add", [y, x], f"{name}/attention/Add")
        x = self.layer_norm(x, f"{name}/attention/LayerNorm")
        y = self.linear(x, f"{name}/intermediate", self.hidden, 4 * self.hidden)
        y = self.gelu(y, f"{name}/gelu")
        y = self.linear(y, f"{name}/output", 4 * self.hidden, self.hidden)
        return self.layer_norm(self.op("Add", [y, x], f"{name}/Add"), f"{name}/LayerNorm")

    def mask(self) -> str:
        """Zero where the mask is one and the lowest float where it is zero, as batch x 1 x 1 x sequence."""
        y = self.op("Unsqueeze", ["attention_mask", self.constant([1], np.int64, "mask/axes_1")], "mask/first")
        y = self.op("Unsqueeze", [y, self.constant([2], np.int64, "mask/axes_2")], "mask/second")
        y = self.op("Cast", [y], "mask/Cast", to=onnx.TensorProto.FLOAT)
        y = self.op("Sub", [self.number(1, "mask/one"), y], "mask/Sub")
        return self.op("Mul", [y, self.number(LOWEST, "mask/lowest")], "mask/Mul")

    def embeddings(self, vocabulary: int, positions: int) -> str:
        words = self.normal("embeddings.word.weight", vocabulary, self.hidden)
        types = self.normal("embeddings.type.weight", 2, self.hidden)
        places = self.normal("embeddings.position.weight", positions, self.hidden)
        ids = self.weight("embeddings.position_ids", np.arange(positions, dtype=np.int64)[None])
        shape = self.op("Shape", ["input_ids"], "embeddings/Shape")
        index = self.constant(1, np.int64, "embeddings/index")
        length = self.op("Gather", [shape, index], "embeddings/Gather", axis=0)
        axes = self.constant([0], np.int64, "embeddings/axes")
        length = self.op("Unsqueeze", [length, axes], "embeddings/Unsqueeze")
        bounds = [self.constant([v], np.int64, f"embeddings/{k}") for k, v in (("start", 0), ("axis", 1))]
        step = self.constant([1], np.int64, "embeddings/step")
        ids = self.op("Slice", [ids, bounds[0], length, bounds[1], step], "embeddings/Slice")
        x = self.op("Gather", [words, "input_ids"], "embeddings/word/Gather")
        y = self.op("Gather", [types, "token_type_ids"], "embeddings/type/Gather")
        x = self.op("Add", [x, y], "embeddings/Add")
        x = self.op("Add", [x, self.op("Gather", [places, ids], "embeddings/position/Gather")], "embeddings/Add_1")
        return self.layer_norm(x, "embeddings/LayerNorm")

    def pooler(self, x: str) -> None:
        first = self.op("Gather", [x, self.constant(0, np.int64, "pooler/index")], "pooler/Gather", axis=1)
        weight = self.normal("pooler.weight", self.hidden, self.hidden)
        y = self.op("Gemm", [first, weight, self.normal("pooler.bias", self.hidden)], "pooler/Gemm", transB=1)
        self.op("Tanh", [y], "pooler_output")


def make_bert(
    layers: int = 12,
    hidden: int = 768,
    heads: int = 12,
    vocabulary: int = 30522,
    positions: int = 512,
    sequence: int | str = "sequence",
    seed: int = 0,
) -> onnx.ModelProto:
    """The encoder at opset 14, with 2 * `layers` + 1 decomposed layer-norms.

    Inputs `input_ids`, `attention_mask` and `token_type_ids`, int64 batch x `sequence` (a number fixes it);
    outputs `last_hidden_state` batch x sequence x hidden and `pooler_output` batch x hidden, float32. A
    sequence may be as long as `positions`. ValueError where `heads` does not divide `hidden`.
    """
    if hidden % heads:
        raise ValueError(f"hidden {hidden} is not a multiple of heads {heads}")
    encoder = _Encoder(hidden, heads, seed)
    mask = encoder.mask()
    x = encoder.embeddings(vocabulary, positions)
    for index in range(layers):
        x = encoder.layer(x, mask, f"layer.{index}")
    encoder.op("Identity", [x], "last_hidden_state")
    encoder.pooler(x)
    size = ("batch", sequence)
    return encoder.model(
        "bert",
        dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (np.int64, size)),
        {
            "last_hidden_state": (np.float32, (*size, hidden)),
            "pooler_output": (np.float32, ("batch", hidden)),
        },
        opset=14,
    )
