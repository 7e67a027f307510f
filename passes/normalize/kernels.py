"""Versions of operators that ONNX Runtime has no kernel for. Written by tools/lacking_kernels.py."""

RUNTIME = "1.32.0"
"""The version of ONNX Runtime that was asked."""
LACKING: dict[str, dict[int, frozenset[str]]] = {
    "Bernoulli": {22: frozenset({"double", "float", "float16"})},
    "GlobalLpPool": {22: frozenset({"float", "float16"})},
    "MaxRoiPool": {22: frozenset({"float", "float16"})},
    "Mish": {22: frozenset({"double"})},
    "Multinomial": {22: frozenset({"float", "float16"})},
    "RandomNormal": {22: frozenset({"float"})},
    "RandomNormalLike": {22: frozenset({"double", "float", "float16"})},
    "RandomUniform": {22: frozenset({"float"})},
    "RandomUniformLike": {22: frozenset({"double", "float", "float16"})},
    "RoiAlign": {22: frozenset({"double", "float", "float16"})},
}
"""By operator and version: element types of the first input (or output) for which only older versions have
kernels."""
