"""Winograd convolution against a plain one in float64, with shapes whose tiles extend beyond the image everywhere."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, ConvWorkload
from graphopt.targets.tvm.kernels.winograd import compute as family
from graphopt.targets.tvm.kernels.winograd import plan as planning
from graphopt.targets.tvm.kernels.winograd.plan import WinogradPlan
from graphopt.targets.tvm.kernels.winograd.toom_cook import POINTS, transforms
from graphopt.targets.tvm.machine import Machine
from tests.targets.schedule.blocks import blocked, plain
from tests.targets.schedule.support import MACHINE, execute, placeholder, scheduled

AVX2 = Machine(32, 16, 2, 32 << 10, 512 << 10)
AVX512 = Machine(64, 32, 8, 32 << 10, 1 << 20)
NEON = Machine(16, 32, 4)
TOLERANCE = 1e-5
"""Of the largest output."""


def workload_of(
    inputs: int,
    outputs: int,
    space: tuple[int, int],
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    batch: int = 1,
    lanes: int = 8,
) -> ConvWorkload:
    """`pads` in ONNX's order: top, left, bottom, right."""
    spec = ConvSpec(outputs, inputs, (3, 3), (1, 1), (1, 1), pads[:2], pads[2:])
    return ConvWorkload(spec, batch, space, lanes)


def reference(data: np.ndarray, weight: np.ndarray, spec: ConvSpec) -> np.ndarray:
    pads = [(0, 0), (0, 0), *zip(spec.pads_begin, spec.pads_end, strict=True)]
    windows = sliding_window_view(np.pad(data.astype(np.float64), pads), (3, 3), axis=(2, 3))
    with np.errstate(invalid="ignore"):
        return np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64), optimize=True)


def random_case(workload: ConvWorkload, mean: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Data and a weight for a workload."""
    spec, rng = workload.spec, np.random.default_rng(5)
    data = (rng.standard_normal((workload.batch, spec.in_channels, *workload.space)) + mean).astype(np.float32)
    return data, rng.standard_normal((spec.out_channels, spec.in_channels, 3, 3)).astype(np.float32)


def check(
    workload: ConvWorkload, plan: WinogradPlan, epilogue: bool = False, mean: float = 0.0, machine: Machine = AVX2
) -> None:
    """Run a plan on random data and compare."""
    found, expected = run(workload, plan, *random_case(workload, mean), epilogue, machine)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def run(
    workload: ConvWorkload,
    plan: WinogradPlan,
    data: np.ndarray,
    weight: np.ndarray,
    epilogue: bool = False,
    machine: Machine = AVX2,
) -> tuple[np.ndarray, np.ndarray]:
    """What a plan computes, with NaN in the lanes that must not be read, and what it should."""
    spec, rng, v = workload.spec, np.random.default_rng(6), workload.lanes
    expected = reference(data, weight, spec)
    x = placeholder(blocked(data, v, 0).shape, name="x")
    w = placeholder(family.packed_shape(workload, plan), name="w")
    tensors = [x, w]
    arrays = [blocked(data, v, np.nan), family.pack_weight(weight, workload, plan)]
    out = family.winograd(x, w, workload, plan)
    shape = [int(size) for size in out.shape]
    if epilogue:
        other, bias = (rng.standard_normal(size).astype(np.float32) for size in (expected.shape, spec.out_channels))
        r, b = placeholder(shape, name="r"), placeholder([shape[1], v], name="b")
        tensors += [r, b]
        arrays += [blocked(other, v, 0), blocked(bias.reshape(1, -1, 1, 1), v, 0).reshape(shape[1], v)]
        biased = te.compute(out.shape, lambda n, c, h, w, lane: out(n, c, h, w, lane) + b(c, lane), name="biased")
        added = te.compute(out.shape, lambda *i: biased(*i) + r(*i), name="added")
        out = te.compute(out.shape, lambda *i: tirx.max(added(*i), tirx.const(0, "float32")), name="relu")
        expected = np.maximum(expected + other + bias.reshape(1, -1, 1, 1), 0)
    (result,) = execute(scheduled([*tensors, out], machine), arrays, [np.zeros(shape, np.float32)])
    return plain(result, spec.out_channels), expected


def plan_of(outputs: int, strips: int, columns: int, vectors: int, by_strips: bool) -> WinogradPlan:
    return WinogradPlan(outputs, strips, columns, vectors, by_strips)


SPACES = [(1, 1), (1, 9), (2, 13), (3, 4), (5, 2), (7, 7), (8, 12), (13, 6)]
PADS = [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 0), (2, 2, 2, 2), (1, 0, 0, 1)]
CHANNELS = [(1, 8), (3, 12), (8, 1), (12, 17), (17, 40), (40, 3)]


@pytest.mark.parametrize("outputs", POINTS)
@pytest.mark.parametrize("space", SPACES)
def test_odd_sizes(outputs: int, space: tuple[int, int]) -> None:
    tried = 0
    for index, pads in list(enumerate(PADS))[1 - sum(space) % 2 :: 2]:
        inputs, channels = CHANNELS[(index + sum(space)) % len(CHANNELS)]
        workload = workload_of(inputs, channels, space, pads, batch=1 + index % 2)
        if not planning.applies(workload):
            assert min(planning.out_space(workload)) < 1
            continue
        tiles = planning.tiling(workload, outputs).tiles
        check(workload, plan_of(outputs, min(tiles, 1 + index), 3, 2, bool(index % 2)))
        tried += 1
    assert tried >= 1


@pytest.mark.parametrize("channels", CHANNELS)
def test_channels_that_do_not_fill_their_vectors(channels: tuple[int, int]) -> None:
    workload = workload_of(*channels, (6, 9), batch=2)
    plan = planning.plan_winograd(workload, AVX2)
    assert plan is not None
    check(workload, plan)
    check(workload, plan_of(4, 2, 4, 3, True), epilogue=True)


@pytest.mark.parametrize(("outputs", "by_strips"), list(itertools.product(POINTS, (False, True))))
def test_fused_epilogue(outputs: int, by_strips: bool) -> None:
    workload = workload_of(24, 40, (11, 13), (1, 1, 0, 2), batch=2)
    check(workload, plan_of(outputs, 4, 5, 2, by_strips), epilogue=True)


@pytest.mark.parametrize(("columns", "vectors"), [(1, 1), (2, 5), (3, 4), (6, 2), (12, 1)])
def test_register_tiles(columns: int, vectors: int) -> None:
    check(workload_of(16, 40, (14, 14)), plan_of(4, 2, columns, vectors, False))


def test_candidates_are_right() -> None:
    workload = workload_of(32, 32, (15, 14))
    plans = planning.candidates(workload, AVX2)
    assert plans[0] == planning.plan_winograd(workload, AVX2)
    assert len(set(plans)) == len(plans) > 6
    assert {plan.outputs for plan in plans} == set(POINTS)
    for plan in plans[::5]:
        check(workload, plan)


@pytest.mark.parametrize("outputs", POINTS)
@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_many_channels_and_large_means_stay_exact(outputs: int, mean: float) -> None:
    check(workload_of(512, 8, (8, 8)), plan_of(outputs, 1, 5, 1, False), mean=mean)


@pytest.mark.parametrize(("machine", "lanes"), [(MACHINE, MACHINE.lanes("float32")), (AVX512, 16), (NEON, 4)])
def test_other_vectors(machine: Machine, lanes: int) -> None:
    workload = workload_of(40, 72, (15, 28), lanes=lanes)
    plan = planning.plan_winograd(workload, machine)
    assert plan is not None
    check(workload, plan, epilogue=True, machine=machine)


@pytest.mark.parametrize("outputs", POINTS)
def test_transforms_are_exact(outputs: int) -> None:
    made = transforms(outputs)
    rng = np.random.default_rng(1)
    data, taps = rng.integers(-9, 9, outputs + 2), rng.integers(-9, 9, 3)
    products = [
        sum(g * int(t) for g, t in zip(weights, taps, strict=True))
        * sum(b * int(d) for b, d in zip(inputs, data, strict=True))
        for weights, inputs in zip(made.weight, made.input, strict=True)
    ]
    for i, row in enumerate(made.output):
        exact = sum(int(data[i + k]) * int(taps[k]) for k in range(3))
        assert sum(a * p for a, p in zip(row, products, strict=True)) == exact


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (workload_of(64, 64, (56, 56)), True),
        (workload_of(256, 256, (14, 14)), True),
        (workload_of(512, 512, (14, 14)), True),
        (workload_of(3, 64, (224, 224)), False),
        (workload_of(64, 64, (2, 2), (0, 0, 0, 0)), False),
        (workload_of(64, 64, (1, 56), (0, 1, 0, 1)), False),
    ],
)
def test_worth(workload: ConvWorkload, expected: bool) -> None:
    assert (planning.worth(workload, AVX2) is not None) is expected


SPECIAL = [np.inf, -np.inf, np.nan, 3e38, -1e30]


@pytest.mark.parametrize(
    ("outputs", "by_strips", "epilogue"), [(4, False, True), (4, True, False), (2, False, False), (2, True, True)]
)
def test_what_is_not_finite_stays_where_it_is_read(outputs: int, by_strips: bool, epilogue: bool) -> None:
    workload = workload_of(20, 24, (13, 30), (1, 0, 1, 2), batch=2)
    data, weight = random_case(workload)
    weight *= np.random.default_rng(7).random(weight.shape) < 0.5  # zero times infinity is NaN
    places = [(0, 3, 0, 0), (1, 19, 12, 29), (0, 7, 6, 14), (0, 0, 5, 25), (1, 2, 2, 3)]
    for place, number in zip(places, SPECIAL, strict=True):
        data[place] = number
    touched = reference((~(np.abs(data) < 1e9)).astype(np.float32), np.ones_like(weight), workload.spec) > 0
    found, expected = run(workload, plan_of(outputs, 3, 5, 2, by_strips), data, weight, epilogue)
    assert 0.01 < touched.mean() < 0.2
    with np.errstate(over="ignore"):
        expected = expected.astype(np.float32)
    largest = np.abs(expected[~touched]).max()
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * largest)
    assert not np.isfinite(found[touched]).all()
    assert np.isfinite(found[~touched]).all()


@pytest.mark.parametrize("outputs", POINTS)
def test_kernels_come_back_from_their_transforms(outputs: int) -> None:
    made = transforms(outputs)
    kernel = [Fraction(3), Fraction(-1, 7), Fraction(5)]
    first, second, third, *_, last = (sum(a * b for a, b in zip(row, kernel, strict=True)) for row in made.weight)
    differences = (first, second - third, last)
    assert [u * factor for u, factor in zip(differences, made.taps, strict=True)] == kernel


def test_a_weight_that_is_not_finite_is_left_to_others() -> None:
    workload = workload_of(64, 64, (56, 56))
    unusual = replace(workload, usual_weight=False)
    assert planning.applies(workload)
    assert not planning.applies(unusual)
    assert not planning.candidates(unusual, AVX2)
    assert unusual.key != workload.key


@pytest.mark.parametrize(
    ("side", "cores", "outputs"),
    [(28, 2, 4), (14, 2, 2), (14, 8, 2)],
    ids=[
        "F(4, 3) is clearly faster",
        "F(2, 3) needs 3% more cycles and less than half of the weights",
        "F(2, 3) is faster",
    ],
)
def test_smaller_weights_decide_between_plans_that_are_about_as_fast(side: int, cores: int, outputs: int) -> None:
    workload, machine = workload_of(512, 512, (side, side)), Machine(32, 16, cores, 32 << 10, 1 << 20)
    fewest = {
        each: min(
            planning.cycles(workload, p, machine) for p in planning.candidates(workload, machine) if p.outputs == each
        )
        for each in POINTS
    }
    chosen = planning.worth(workload, machine)
    assert chosen is not None
    assert chosen.outputs == outputs
    assert planning.cycles(workload, chosen, machine) == fewest[outputs]
    if (side, cores) == (14, 2):
        assert fewest[4] < fewest[2] < planning.NEARLY * fewest[4]
