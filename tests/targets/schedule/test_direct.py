"""Direct and depthwise convolution against ONNX Runtime: remainders, edges, strides, dilations, groups, all ranks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, ConvWorkload
from graphopt.targets.tvm.kernels.common.nest import even_split
from graphopt.targets.tvm.kernels.depthwise import compute as depthwise
from graphopt.targets.tvm.kernels.depthwise import plan as depthwise_plans
from graphopt.targets.tvm.kernels.direct import compute as direct
from graphopt.targets.tvm.kernels.direct import plan as direct_plans
from graphopt.targets.tvm.kernels.direct.plan import DirectPlan
from graphopt.targets.tvm.machine import Machine
from tests.targets.schedule.blocks import check_convolution

AVX2 = Machine(32, 16, 2, 32 << 10, 512 << 10)
AVX512 = Machine(64, 32, 2, 32 << 10, 1 << 20)
NEON = Machine(16, 32, 4)


def workload(
    inputs: int,
    outputs: int,
    space: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    dilations: tuple[int, ...] = (),
    groups: int = 1,
    batch: int = 1,
    lanes: int = 8,
    is_blocked: bool = True,
) -> ConvWorkload:
    """`pads` in ONNX's order: all beginnings, then all ends."""
    rank = len(space)
    ones, pads = (1,) * rank, pads or (0,) * (2 * rank)
    spec = ConvSpec(outputs, inputs, kernel, strides or ones, dilations or ones, pads[:rank], pads[rank:], groups)
    return ConvWorkload(spec, batch, space, lanes, is_blocked)


def check(work: ConvWorkload, plan: DirectPlan | None = None, machine: Machine = AVX2) -> None:
    plan = plan or direct_plans.plan_direct(work, machine)
    check_convolution(
        work,
        machine,
        lambda weight: direct.pack_weight(weight, work, plan),
        lambda x, w: direct.direct(x, w, work, plan),
        "direct convolution",
    )


ODD: dict[str, Any] = {
    "channels that fill no block": {
        "inputs": 5,
        "outputs": 12,
        "space": (9, 9),
        "kernel": (3, 3),
        "pads": (1, 1, 1, 1),
    },
    "uneven in everything": {
        "inputs": 17,
        "outputs": 24,
        "space": (5, 6),
        "kernel": (3, 2),
        "strides": (2, 1),
        "pads": (1, 2, 0, 1),
        "batch": 2,
    },
    "one position": {"inputs": 8, "outputs": 8, "space": (1, 1), "kernel": (1, 1)},
    "dilated": {
        "inputs": 16,
        "outputs": 32,
        "space": (13, 13),
        "kernel": (5, 5),
        "strides": (3, 3),
        "pads": (2, 2, 2, 2),
        "dilations": (2, 2),
    },
    "groups": {
        "inputs": 32,
        "outputs": 64,
        "space": (9, 9),
        "kernel": (3, 3),
        "strides": (2, 2),
        "pads": (1, 1, 1, 1),
        "groups": 2,
    },
    "groups that end within a block": {
        "inputs": 56,
        "outputs": 44,
        "space": (9, 13),
        "kernel": (3, 3),
        "pads": (1, 1, 1, 1),
        "groups": 4,
        "batch": 2,
    },
    "groups of half a block": {"inputs": 16, "outputs": 16, "space": (3, 5), "kernel": (2, 2), "groups": 4},
    "groups of few outputs": {"inputs": 48, "outputs": 9, "space": (17,), "kernel": (5,), "groups": 3},
    "one axis written as two": {
        "inputs": 12,
        "outputs": 20,
        "space": (23, 1),
        "kernel": (5, 1),
        "strides": (2, 1),
        "pads": (2, 0, 2, 0),
    },
    "a single position after": {"inputs": 8, "outputs": 9, "space": (5, 6, 1, 1), "kernel": (3, 2, 1, 1), "batch": 2},
    "one axis": {"inputs": 12, "outputs": 9, "space": (7,), "kernel": (3,), "pads": (1, 1)},
    "three axes": {
        "inputs": 9,
        "outputs": 10,
        "space": (4, 5, 6),
        "kernel": (3, 2, 3),
        "strides": (1, 2, 1),
        "pads": (1, 0, 1, 1, 1, 0),
    },
    "all padding": {"inputs": 8, "outputs": 40, "space": (2, 2), "kernel": (3, 3), "pads": (4, 4, 4, 4)},
    "a long kernel": {"inputs": 40, "outputs": 8, "space": (3, 3), "kernel": (1, 7), "pads": (0, 3, 0, 3), "batch": 3},
    "pointwise with a stride": {"inputs": 24, "outputs": 33, "space": (7, 5), "kernel": (1, 1), "strides": (2, 2)},
    "a plain input": {
        "inputs": 3,
        "outputs": 16,
        "space": (10, 11),
        "kernel": (7, 7),
        "strides": (2, 2),
        "pads": (3, 3, 3, 3),
        "is_blocked": False,
        "batch": 2,
    },
    "a plain input of one channel": {
        "inputs": 1,
        "outputs": 1,
        "space": (1, 3),
        "kernel": (3, 3),
        "pads": (1, 1, 1, 1),
        "is_blocked": False,
    },
}


@pytest.mark.parametrize("shape", ODD.values(), ids=ODD.keys())
def test_odd_shapes(shape: dict[str, Any]) -> None:
    check(workload(**shape))


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(("columns", "vectors"), [(4, 3), (6, 2), (8, 1)])
def test_groups_across_blocks(lanes: int, columns: int, vectors: int) -> None:
    """Tiles of one block and of several, each with its own band of input channels."""
    machine = {4: NEON, 8: AVX2, 16: AVX512}[lanes]
    work = workload(144, 136, (7, 6), (1, 1), groups=4, lanes=lanes)
    assert work.is_banded
    check(work, DirectPlan(columns, vectors), machine)


def test_a_band_holds_the_groups_of_its_block() -> None:
    work = workload(72, 30, (3, 3), (1, 1), groups=3)
    # Blocks of outputs 0-7, 8-15, 16-23, 24-29 belong to groups 0, 0 and 1, 1 and 2, 2 of 24 inputs each.
    assert [work.band(block) for block in range(4)] == [(0, 3), (0, 6), (3, 6), (6, 3)]
    assert direct_plans.tiles_of(work, 2) == [(0, 1, 4)]
    assert work.group_in == 48


def test_tiles_do_not_mix_bands() -> None:
    work = workload(136, 136, (3, 3), (1, 1), groups=4)
    tiles = [
        (first + size * index, size) for first, size, count in direct_plans.tiles_of(work, 3) for index in range(count)
    ]
    assert tiles == [(0, 2), (2, 2), (4, 1), (5, 3), (8, 1), (9, 3), (12, 1), (13, 2), (15, 2)]


def test_a_tile_of_one_vector_leaves_registers_for_what_taps_share() -> None:
    assert direct_plans.plan_direct(workload(64, 8, (56, 56), (3, 3)), AVX2).columns <= 10


@pytest.mark.parametrize(("columns", "vectors"), [(1, 1), (5, 2), (3, 4), (12, 1), (2, 5)])
@pytest.mark.parametrize("bands", [0, 1, 4, 9, 1000])
def test_every_plan_gives_the_same(columns: int, vectors: int, bands: int) -> None:
    """Bands of several rows, of less in the last, of pieces of a row; more than there are tiles."""
    check(workload(16, 56, (6, 11), (3, 3), pads=(1, 1, 1, 1), batch=2), DirectPlan(columns, vectors, bands))
    check(workload(16, 56, (6, 11), (1, 1)), DirectPlan(columns, vectors, bands))


@pytest.mark.parametrize(("machine", "lanes"), [(AVX512, 16), (NEON, 4)])
def test_other_vector_widths(machine: Machine, lanes: int) -> None:
    check(workload(19, 50, (5, 7), (3, 3), pads=(1, 1, 1, 1), lanes=lanes), machine=machine)


@pytest.mark.parametrize("chunk", [1, 3, 6])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bands", [0, 3, 11])
def test_sums_wait_between_parts_of_the_input_channels(groups: int, chunk: int, bands: int) -> None:
    work = workload(48 * groups, 40 * groups, (5, 7), (3, 3), pads=(1, 1, 1, 1), groups=groups, batch=2)
    check(work, DirectPlan(3, 3, bands, chunk))
    check(workload(48, 40, (5, 7), (1, 1), batch=2), DirectPlan(3, 3, bands, chunk))


def test_bands_where_all_data_would_pass_many_times() -> None:
    """Eight large images; but not where weights weigh more, nor where all images stay in cache."""
    many = workload(256, 128, (56, 56), (1, 1), batch=8)
    assert direct_plans.plan_direct(many, AVX2).bands > 1
    assert direct_plans.plan_direct(workload(2048, 512, (7, 7), (1, 1), batch=8), AVX2).bands == 0
    assert direct_plans.plan_direct(workload(64, 128, (14, 14), (1, 1)), AVX2).bands == 0


def test_parts_where_a_tile_of_weights_fills_the_cache() -> None:
    work = workload(512, 64, (14, 14), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    plan = direct_plans.plan_direct(work, AVX2)
    assert plan.chunk > 0
    assert 64 % plan.chunk == 0
    check(work, plan)
    assert direct_plans.plan_direct(workload(64, 64, (14, 14), (1, 1)), AVX2).chunk == 0


def test_sums_that_wait_are_bounded() -> None:
    """However large the image is: with one long row, with many."""
    for kernel, pads in (((1, 1), (0, 0, 0, 0)), ((5, 5), (2, 2, 2, 2))):
        work = workload(2048, 64, (600, 500), kernel, pads=pads)
        plan = direct_plans.plan_direct(work, AVX2)
        assert plan.chunk > 0
        assert 600 * 500 * plan.vectors * 8 * 4 / plan.bands <= 1 << 20


def test_plans_respect_the_registers() -> None:
    for machine, outputs in itertools.product((AVX2, AVX512, NEON), (3, 64, 1000)):
        work = workload(64, outputs, (14, 14), (3, 3), pads=(1, 1, 1, 1), lanes=machine.lanes("float32"))
        plans = [direct_plans.plan_direct(work, machine), *direct_plans.candidates(work, machine)]
        assert all(0 < plan.columns * plan.vectors <= machine.accumulators for plan in plans)
        assert plans[0] in plans[1:]


@pytest.mark.parametrize(
    "shape",
    [
        {"channels": 24, "space": (9, 9), "kernel": (3, 3), "pads": (1, 1, 1, 1)},
        {"channels": 17, "space": (7, 8), "kernel": (5, 5), "strides": (2, 2), "pads": (2, 2, 1, 1), "batch": 2},
        {"channels": 8, "space": (1, 20), "kernel": (1, 9), "pads": (0, 4, 0, 4)},
        {"channels": 9, "space": (10, 10), "kernel": (3, 3), "pads": (2, 2, 2, 2), "dilations": (2, 2)},
        {"channels": 16, "space": (30,), "kernel": (3,), "pads": (1, 1)},
    ],
)
def test_depthwise(shape: dict[str, Any]) -> None:
    channels = shape.pop("channels")
    work = workload(channels, channels, groups=channels, **shape)
    for plan in depthwise_plans.candidates(work, AVX2):
        check_convolution(
            work,
            AVX2,
            lambda weight: depthwise.pack_weight(weight, work),
            lambda x, w, plan=plan: depthwise.depthwise(x, w, work, plan),
            "depthwise convolution",
        )


def test_packed_weights_hold_every_number_once() -> None:
    work = workload(19, 50, (5, 7), (3, 3), pads=(1, 1, 1, 1))
    weight = np.arange(1, 50 * 19 * 9 + 1, dtype=np.float32).reshape(50, 19, 3, 3)
    plan = direct_plans.plan_direct(work, AVX2)
    packed = direct.pack_weight(weight, work, plan)
    assert packed.shape == (direct_plans.packed_size(work, plan),)
    assert sorted(packed[packed != 0]) == sorted(weight.ravel())


@pytest.mark.parametrize(("size", "most"), list(itertools.product((1, 5, 7, 12, 56), (1, 3, 6, 60))))
def test_even_split_covers_without_waste(size: int, most: int) -> None:
    places = [
        first + i * length + j
        for first, length, count in even_split(size, most)
        for i in range(count)
        for j in range(length)
    ]
    assert places == list(range(size))
    lengths = {length for _, length, _ in even_split(size, most)}
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1
