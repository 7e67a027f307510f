"""Operators made of elementary functions, computed by generated kernels: special values and odd sizes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.targets.lowering.support import check, check_for_machine, noise

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 20.5, -20.5, 87.0, -87.0, 1e30, -1e30]


@pytest.mark.parametrize("op", ["Exp", "Sin", "Cos", "Softplus", "Mish", "Sigmoid", "Elu", "Swish"])
def test_special_values(op: str) -> None:
    """Test one value at a time: next to infinity, an error of any other value would not show.

    ONNX Runtime's sigmoid is cut off at -18.
    """
    versions = '<ir_version: 11, opset_import: ["" : 24]>'
    text = f"{versions} g (float[N] x) => (float[N] y) {{ y = {op}(x) }}"
    cut = op in ("Sigmoid", "Swish")
    sets = [np.array([value], np.float32) for value in SPECIAL if not (cut and -100 < value < -18)]
    check_for_machine(text, *({"x": x} for x in [*sets, 5 * noise(1003)]), tolerance=2e-6)


@pytest.mark.parametrize(
    ("op", "kind"), [("Sin", "double"), ("Sigmoid", "double"), ("Sigmoid", "float16"), ("Softplus", "float16")]
)
def test_other_types(op: str, kind: str) -> None:
    text = f'<ir_version: 11, opset_import: ["" : 21]> g ({kind}[3, 7] x) => ({kind}[3, 7] y) {{ y = {op}(x) }}'
    x = 5 * noise(3, 7, dtype="float64" if kind == "double" else kind)
    check_for_machine(text, {"x": x}, tolerance=1e-3 if kind == "float16" else 1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
def test_integers_shrink_by_a_fraction(dtype: str) -> None:
    """ONNX Runtime computes in floating point, and cuts the result to an integer."""
    text = (
        f'<ir_version: 10, opset_import: ["": 22]> g ({dtype}[n] x) => ({dtype}[?] y) '
        "{ y = Shrink<bias = 0.7, lambd = 1.5>(x) }"
    )
    check(text, {"x": np.arange(0 if dtype == "uint8" else -6, 7).astype(dtype)})
