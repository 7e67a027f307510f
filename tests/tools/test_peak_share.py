"""The share of the peak that kinds of kernels reach, for a given profile."""

from __future__ import annotations

import pytest

from graphopt.driver.backend import Peak
from graphopt.profiling.kernels import Kernel
from graphopt.profiling.profile import Call
from tools import peak_share


def call(schedule: str, flops: int | None, seconds: float, operator: str = "Conv") -> Call:
    return Call(Kernel("f", ("layer",), (operator,), flops, 0, schedule), seconds)


def test_kinds_sum_their_calls() -> None:
    calls = [
        call("direct convolution 3x4x8", 100, 1.0),
        call("direct convolution 6x2x8, 4 bands", 200, 1.0),
        call("direct convolution 4x4x16, vpdpbusd", 600, 2.0, "BlockedConvInteger"),
        call("Winograd F(4, 3), tile 6x2x8, 1 strips", 900, 3.0),
        call("pooling 12x8", 50, 1.0),
        call("matmul", None, 1.0),
    ]
    found = peak_share.by_kind(calls, Peak(200.0, 1.0, 400.0))
    assert found == {
        "direct convolution": {"seconds": 4.0, "of_peak": pytest.approx(0.75)},
        "Winograd": {"seconds": 3.0, "of_peak": pytest.approx(1.5)},
    }


def test_the_table_leaves_out_what_does_not_occur() -> None:
    kinds = {"matmul": {"seconds": 1.0, "of_peak": 0.9, "share": 0.5}}
    text = peak_share.table([{"model": "m", "error": 1e-7, "kinds": kinds}])
    assert text.splitlines()[-1] == "| m | 1.0e-07 |  |  |  | 90% of peak in 50% |"
