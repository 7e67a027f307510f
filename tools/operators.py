"""Make models of one operator each, to see which ones lag behind other runtimes.

    python tools/operators.py -o FOLDER [NAME ...]
    python tools/bench.py FOLDER/*.onnx --threads 1 -o operators

All of them by default. Sizes are those of usual networks. The same names give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

HEADER = '<ir_version: 10, opset_import: ["" : 23]>'

IMAGE = "float[1,64,56,56]"

OPERATORS: dict[str, str] = {
    "softmax": "g (float[12,128,128] X) => (float[12,128,128] Y) { Y = Softmax (X) }",
    "softmax-channels": "g (float[1,81,8732] X) => (float[1,81,8732] Y) { Y = Softmax <axis = 1> (X) }",
    "log-softmax": "g (float[128,1000] X) => (float[128,1000] Y) { Y = LogSoftmax (X) }",
    "layer-norm": """g (float[1,128,768] X, float[768] w, float[768] b) => (float[1,128,768] Y) {
        Y = LayerNormalization (X, w, b) }""",
    "rms-norm": "g (float[1,128,2048] X, float[2048] w) => (float[1,128,2048] Y) { Y = RMSNormalization (X, w) }",
    "group-norm": """g (float[1,320,64,64] X, float[320] w, float[320] b) => (float[1,320,64,64] Y) {
        Y = GroupNormalization <num_groups = 32> (X, w, b) }""",
    "instance-norm": """g (float[1,64,128,128] X, float[64] w, float[64] b) => (float[1,64,128,128] Y) {
        Y = InstanceNormalization (X, w, b) }""",
    "lp-norm": "g (float[128,512] X) => (float[128,512] Y) { Y = LpNormalization (X) }",
    "lrn": f"g ({IMAGE} X) => ({IMAGE} Y) {{ Y = LRN <size = 5> (X) }}",
    "mean-last": """g (float[1,128,768] X) => (float[1,128,1] Y) <int64[1] axes = {2}> { Y = ReduceMean (X, axes) }""",
    "mean-middle": """g (float[8,128,768] X) => (float[8,1,768] Y) <int64[1] axes = {1}> {
        Y = ReduceMean (X, axes) }""",
    "max-first": """g (float[256,4096] X) => (float[1,4096] Y) <int64[1] axes = {0}> { Y = ReduceMax (X, axes) }""",
    "mean-image": "g (float[1,1280,7,7] X) => (float[1,1280,1,1] Y) { Y = GlobalAveragePool (X) }",
    "sum-all": "g (float[64,64,64] X) => (float[1,1,1] Y) { Y = ReduceSum (X) }",
    "argmax": "g (float[1,21,128,128] X) => (int64[1,1,128,128] Y) { Y = ArgMax <axis = 1> (X) }",
    "cumsum": "g (float[128,1024] X) => (float[128,1024] Y) <int64 axis = {1}> { Y = CumSum (X, axis) }",
    "topk": "g (float[64,1000] X) => (float[64,5] Y, int64[64,5] Z) <int64[1] k = {5}> { Y, Z = TopK (X, k) }",
    "transpose-nhwc": f"g ({IMAGE} X) => (float[1,56,56,64] Y) {{ Y = Transpose <perm = [0,2,3,1]> (X) }}",
    "transpose-nchw": f"g (float[1,56,56,64] X) => ({IMAGE} Y) {{ Y = Transpose <perm = [0,3,1,2]> (X) }}",
    "transpose-matrix": "g (float[1000,1000] X) => (float[1000,1000] Y) { Y = Transpose <perm = [1,0]> (X) }",
    "transpose-heads": "g (float[1,128,12,64] X) => (float[1,12,128,64] Y) { Y = Transpose <perm = [0,2,1,3]> (X) }",
    "resize-nearest": f"""g ({IMAGE} X) => (float[1,64,112,112] Y) <float[4] s = {{1.0, 1.0, 2.0, 2.0}}> {{
        Y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
            (X, , s) }}""",
    "resize-linear": f"""g ({IMAGE} X) => (float[1,64,112,112] Y) <float[4] s = {{1.0, 1.0, 2.0, 2.0}}> {{
        Y = Resize <mode = "linear"> (X, , s) }}""",
    "gather-rows": "g (int64[8,128] I, float[30000,256] w) => (float[8,128,256] Y) { Y = Gather (w, I) }",
    "concat": f"g ({IMAGE} X, {IMAGE} Z) => (float[1,128,56,56] Y) {{ Y = Concat <axis = 1> (X, Z) }}",
    "pad-reflect": f"""g ({IMAGE} X) => (float[1,64,58,58] Y) <int64[8] p = {{0,0,1,1,0,0,1,1}}> {{
        Y = Pad <mode = "reflect"> (X, p) }}""",
    "depth-to-space": f"g ({IMAGE} X) => (float[1,16,112,112] Y) {{ Y = DepthToSpace <blocksize = 2> (X) }}",
    "max-pool": """g (float[1,64,112,112] X) => (float[1,64,56,56] Y) {
        Y = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (X) }""",
    "average-pool": f"g ({IMAGE} X) => ({IMAGE} Y) {{ Y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (X) }}",
    "product": "g (float[256,256] X, float[256,256] w) => (float[256,256] Y) { Y = MatMul (X, w) }",
    "product-computed": "g (float[256,256] X, float[256,256] Z) => (float[256,256] Y) { Y = MatMul (X, Z) }",
    "conv-1d": "g (float[1,64,1024] X, float[64,64,3] w) => (float[1,64,1024] Y) { Y = Conv <pads = [1,1]> (X, w) }",
    "conv-3d": """g (float[1,32,16,28,28] X, float[32,32,3,3,3] w) => (float[1,32,16,28,28] Y) {
        Y = Conv <pads = [1,1,1,1,1,1]> (X, w) }""",
    "conv-groups": """g (float[1,128,56,56] X, float[128,4,3,3] w) => (float[1,128,56,56] Y) {
        Y = Conv <pads = [1,1,1,1], group = 32> (X, w) }""",
    "conv-transpose": """g (float[1,64,28,28] X, float[64,32,4,4] w) => (float[1,32,56,56] Y) {
        Y = ConvTranspose <strides = [2,2], pads = [1,1,1,1]> (X, w) }""",
    "add-channels": f"g ({IMAGE} X, float[1,64,1,1] Z) => ({IMAGE} Y) {{ Y = Add (X, Z) }}",
    "pow": f"g ({IMAGE} X, float[1,64,1,1] Z) => ({IMAGE} Y) {{ a = Abs (X)  Y = Pow (a, Z) }}",
    **{
        op.lower(): f"g ({IMAGE} X) => ({IMAGE} Y) {{ Y = {op} (X) }}"
        for op in ("Exp", "Tanh", "Sigmoid", "Erf", "Gelu", "Softplus", "Mish", "Sin", "HardSwish", "Elu")
    },
}
"""Name -> graph. An input with a name in lower case is a weight: random numbers, constant in the model."""


def make(name: str) -> onnx.ModelProto:
    """The model of a name in OPERATORS."""
    model = onnx.parser.parse_model(f"{HEADER} {OPERATORS[name]}")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    weights = [value for value in model.graph.input if value.name.islower()]
    for value in weights:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = rng.standard_normal(shape).astype(np.float32) / 8
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    onnx.checker.check_model(model, full_check=True)
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(OPERATORS))
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in OPERATORS:
            parser.error(f"there is no {name}: choose from {', '.join(OPERATORS)}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in options.names or OPERATORS:
            onnx.save(make(name), options.out / f"{name}.onnx")
    except OSError as error:
        print(f"{options.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
