"""Direct convolution against a plain numpy one, over shapes that leave remainders everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from tvm import te

from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec
from graphopt.targets.tvm.kernels.conv.compute import conv, pack_weight
from graphopt.targets.tvm.kernels.conv.plan import ConvPlan, PlainConvWorkload, candidates
from graphopt.targets.tvm.kernels.family import Dtypes
from graphopt.targets.tvm.machine import Machine
from tests.targets.schedule.support import MACHINE, execute, placeholder, run_te, scheduled


def reference(data: np.ndarray, weight: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """Grouped convolution in float64."""
    rank = len(spec.kernel)
    pads = [(0, 0), (0, 0), *zip(spec.pads_begin, spec.pads_end, strict=True)]
    padded = np.pad(data.astype(np.float64), pads)
    reach = [(k - 1) * d + 1 for k, d in zip(spec.kernel, spec.dilations, strict=True)]
    windows = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    steps = tuple(slice(None, None, s) for s in spec.strides)
    taps = tuple(slice(None, None, d) for d in spec.dilations)
    windows = windows[(slice(None), slice(None), *steps, *taps)]
    groups, out = spec.groups, []
    for g in range(groups):
        i, o = spec.in_channels // groups, spec.out_channels // groups
        part = windows[:, g * i : (g + 1) * i]
        axes = [1, *range(2 + rank, 2 + 2 * rank)]
        result = np.tensordot(part, weight[g * o : (g + 1) * o], axes=(axes, list(range(1, 2 + rank))))
        out.append(np.moveaxis(result, -1, 1))
    return np.concatenate(out, axis=1)


def spec_of(o: int, i: int, kernel: tuple[int, ...], **other: object) -> ConvSpec:
    rank = len(kernel)
    fields: dict[str, object] = {
        "strides": (1,) * rank,
        "dilations": (1,) * rank,
        "pads_begin": (0,) * rank,
        "pads_end": (0,) * rank,
    }
    return ConvSpec(o, i, kernel, **(fields | other))  # type: ignore[arg-type]


def plan_conv(spec: ConvSpec, shape: Sequence[int | None], dtype: str, machine: Machine) -> ConvPlan:
    """The default plan for data of `shape` (N, C, spatial..., None where not known)."""
    batch, _, *space = shape
    return candidates(PlainConvWorkload(spec, batch, tuple(space), Dtypes.of(dtype)), machine)[0]


CASES = [
    (spec_of(16, 3, (3, 3), pads_begin=(1, 1), pads_end=(1, 1)), (1, 3, 9, 11)),
    (spec_of(1, 1, (1, 1)), (1, 1, 1, 1)),
    (spec_of(33, 5, (1, 1)), (2, 5, 7, 9)),
    (spec_of(32, 64, (1, 1)), (1, 64, 13, 13)),
    (spec_of(1000, 8, (1, 1)), (1, 8, 13, 13)),
    (spec_of(24, 40, (1, 1), strides=(2, 2)), (1, 40, 14, 15)),
    (spec_of(48, 64, (3, 3), pads_begin=(1, 1), pads_end=(1, 1)), (1, 64, 7, 7)),
    (spec_of(20, 6, (3, 2), strides=(2, 1), pads_begin=(0, 1), pads_end=(2, 0)), (1, 6, 10, 21)),
    (spec_of(8, 4, (3, 3), dilations=(2, 3), pads_begin=(2, 3), pads_end=(2, 3)), (1, 4, 12, 40)),
    (spec_of(12, 12, (3, 3), groups=12, pads_begin=(1, 1), pads_end=(1, 1)), (1, 12, 17, 19)),
    (spec_of(12, 12, (5, 5), groups=12, strides=(2, 2), pads_begin=(2, 2), pads_end=(2, 2)), (2, 12, 14, 14)),
    (spec_of(24, 12, (3, 3), groups=12, strides=(3, 3)), (1, 12, 20, 20)),
    (spec_of(48, 24, (3, 3), groups=3, pads_begin=(1, 1), pads_end=(1, 1)), (1, 24, 6, 6)),
    (spec_of(30, 10, (1, 1), groups=5), (1, 10, 5, 5)),
    (spec_of(64, 3, (7, 7), strides=(2, 2), pads_begin=(3, 3), pads_end=(3, 3)), (1, 3, 32, 32)),
    (spec_of(10, 7, (3,), pads_begin=(1,), pads_end=(1,)), (1, 7, 33)),
    (spec_of(10, 7, (5,), strides=(2,), dilations=(2,), pads_begin=(4,), pads_end=(0,)), (3, 7, 50)),
    (spec_of(6, 4, (3, 3, 3), pads_begin=(1, 1, 1), pads_end=(1, 1, 1)), (1, 4, 5, 6, 7)),
    (spec_of(4, 4, (2, 2, 2), strides=(2, 2, 2)), (1, 4, 6, 6, 6)),
    (spec_of(64, 32, (3, 3), pads_begin=(6, 6), pads_end=(6, 6), dilations=(6, 6)), (1, 32, 8, 8)),
    (spec_of(2, 2, (4, 4), strides=(5, 5), pads_begin=(0, 3), pads_end=(3, 0)), (1, 2, 16, 18)),
]


def check(plan: ConvPlan, data: np.ndarray, weight: np.ndarray, tolerance: float = 1e-5) -> None:
    shape = placeholder(data.shape, str(data.dtype), "data")
    packed = placeholder(plan.packed_shape, str(data.dtype), "weight")
    expected = reference(data, weight, plan.spec)
    (out,) = run_te(
        [shape, packed, conv(shape, packed, plan)],
        [data, pack_weight(weight, plan)],
        [np.zeros(expected.shape, data.dtype)],
    )
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def arrays(spec: ConvSpec, shape: tuple[int, ...], dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((spec.out_channels, spec.in_channels // spec.groups, *spec.kernel))
    return rng.standard_normal(shape).astype(dtype), weight.astype(dtype)


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=[f"{i}" for i in range(len(CASES))])
def test_convolution_is_right(spec: ConvSpec, shape: tuple[int, ...]) -> None:
    check(plan_conv(spec, shape, "float32", MACHINE), *arrays(spec, shape))


@pytest.mark.parametrize("machine", [Machine(32, 16, 4), Machine(16, 32, 4)], ids=["avx2", "neon"])
@pytest.mark.parametrize("case", [2, 3, 6, 7, 9, 12, 14])
def test_other_vector_widths(machine: Machine, case: int) -> None:
    spec, shape = CASES[case]
    data, weight = arrays(spec, shape)
    plan = plan_conv(spec, shape, "float32", machine)
    x = placeholder(shape, "float32", "data")
    w = placeholder(plan.packed_shape, "float32", "weight")
    expected = reference(data, weight, spec)
    func = scheduled([x, w, conv(x, w, plan)], machine)
    (out,) = execute(func, [data, pack_weight(weight, plan)], [np.zeros(expected.shape, "float32")])
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


DYNAMIC = [0, 2, 5, 7, 9, 10, 14, 15]


@pytest.mark.parametrize("case", DYNAMIC)
def test_one_function_serves_several_sizes(case: int) -> None:
    spec, shape = CASES[case]
    sizes = [te.var(f"s{i}", "int64") for i in range(len(shape) - 1)]
    x = placeholder((sizes[0], shape[1], *sizes[1:]), "float32", "data")
    plan = plan_conv(spec, [None, shape[1], *[None] * (len(shape) - 2)], "float32", MACHINE)
    w = placeholder(plan.packed_shape, "float32", "weight")
    func = scheduled([x, w, conv(x, w, plan)])
    for batch, scale in ((1, 1), (3, 2), (2, 5)):
        actual = (batch, shape[1], *[size * scale + batch for size in shape[2:]])
        data, weight = arrays(spec, actual)
        expected = reference(data, weight, spec)
        (out,) = execute(func, [data, pack_weight(weight, plan)], [np.zeros(expected.shape, "float32")])
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_half_precision_sums_in_single() -> None:
    spec, shape = CASES[6]
    data, weight = arrays(spec, shape, "float16")
    check(plan_conv(spec, shape, "float16", MACHINE), data, weight, tolerance=2e-3)
