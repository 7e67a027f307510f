"""Versions of operators that ONNX Runtime has no kernel for. Written by tools/lacking_kernels.py."""

RUNTIME = "1.32.0"
"""The version of ONNX Runtime that was asked."""
LACKING: dict[str, dict[int, frozenset[str]]] = {
    "Bernoulli": {22: frozenset({"double", "float", "float16"})},
    "Elu": {19: frozenset({"double"})},
    "GlobalLpPool": {22: frozenset({"float", "float16"})},
    "HardSigmoid": {19: frozenset({"double"})},
    "HardSwish": {19: frozenset({"double"})},
    "LeakyRelu": {19: frozenset({"double"})},
    "MaxRoiPool": {22: frozenset({"float", "float16"})},
    "Mish": {19: frozenset({"double"})},
    "Multinomial": {22: frozenset({"float", "float16"})},
    "PRelu": {19: frozenset({"double", "int32", "int64", "uint32"})},
    "RandomNormal": {22: frozenset({"float"})},
    "RandomNormalLike": {22: frozenset({"double", "float", "float16"})},
    "RandomUniform": {22: frozenset({"float"})},
    "RandomUniformLike": {22: frozenset({"double", "float", "float16"})},
    "ReduceLogSumExp": {19: frozenset({"bfloat16", "uint32", "uint64"})},
    "Relu": {19: frozenset({"int64"})},
    "RoiAlign": {22: frozenset({"double", "float", "float16"})},
    "Selu": {19: frozenset({"double"})},
    "Softplus": {19: frozenset({"double"})},
    "Softsign": {19: frozenset({"double"})},
    "ThresholdedRelu": {19: frozenset({"double"})},
}
"""By operator and version: element types of the first input (or output) for which only older versions have
kernels."""
