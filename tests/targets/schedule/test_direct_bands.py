"""Groups that end within a block of channels: what is not finite in one does not reach the others of its band."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, ConvWorkload
from graphopt.targets.tvm.kernels.direct import compute as family
from graphopt.targets.tvm.kernels.direct.plan import candidates
from graphopt.targets.tvm.machine import Machine
from tests.targets.schedule.blocks import blocked, onnx_conv, plain
from tests.targets.schedule.support import execute, placeholder, scheduled

AVX2 = Machine(32, 16, 2, 32 << 10, 512 << 10)


@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(4, 56, 44), (8, 24, 24)])
def test_what_is_not_finite_stays_in_its_group(groups: int, inputs: int, outputs: int) -> None:
    spec = ConvSpec(outputs, inputs, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), groups)
    workload = ConvWorkload(spec, 1, (9, 8), 8)
    assert workload.is_banded
    rng = np.random.default_rng(3)
    data = rng.standard_normal((1, inputs, 9, 8)).astype(np.float32)
    weight = rng.standard_normal((outputs, inputs // groups, 3, 3)).astype(np.float32)
    data[0, 0, 4, 4], data[0, -1, 7, 7], data[0, inputs // 2, 0, 0] = np.inf, np.nan, -np.inf
    plan = candidates(workload, AVX2)[0]
    arrays = [blocked(data, 8, 0), family.pack_weight(weight, workload, plan)]
    x, w = (placeholder(array.shape, name=name) for array, name in zip(arrays, "xw", strict=True))
    out = family.direct(x, w, workload, plan)
    (result,) = execute(scheduled([x, w, out], AVX2), arrays, [np.zeros([int(size) for size in out.shape], np.float32)])
    expected = onnx_conv(data, weight, workload)
    assert 0.5 < np.isfinite(expected).mean() < 1
    np.testing.assert_allclose(plain(result, outputs), expected, rtol=1e-5, atol=1e-4)
