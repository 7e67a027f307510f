"""The family and plan of a workload: from a record if it fits the current families, else by the closed form."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tvm import tirx

from graphopt.targets.tvm.cpu.schedule import schedule_function
from graphopt.targets.tvm.kernels import families
from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, ConvWorkload
from graphopt.targets.tvm.kernels.conv.plan import PlainConvWorkload
from graphopt.targets.tvm.kernels.families import FAMILIES, families_for
from graphopt.targets.tvm.kernels.family import FLOAT32, Dtypes, Workload, bare_function, every_plan, find_plan
from graphopt.targets.tvm.kernels.matmul.plan import MatmulWorkload
from graphopt.targets.tvm.kernels.plans import Plans, default
from graphopt.targets.tvm.tuning.records import Trial
from tests.targets.schedule.support import execute
from tests.targets.tuning.support import MACHINE, conv, record, records

KERNELS = Path(families.__file__).parent

WORKLOADS: dict[str, Workload] = {
    "3x3": conv(19, 24, 9),
    "1x1": conv(16, 40, 7, kernel=1),
    "5x5 strided, plain data": ConvWorkload(
        ConvSpec(9, 3, (5, 5), (2, 2), (1, 1), (2, 2), (2, 2)), 2, (11, 13), 8, blocked=False
    ),
    "groups": ConvWorkload(ConvSpec(32, 32, (3, 3), (1, 1), (2, 2), (1, 1), (1, 1), 2), 1, (9, 9), 8),
    "1-D": ConvWorkload(ConvSpec(16, 16, (3,), (1,), (1,), (1,), (1,)), 1, (20,), 8),
    "depthwise": conv(24, 24, 9, groups=24),
    "product": MatmulWorkload(33, 70, 50, FLOAT32, packed=True),
    "one row": MatmulWorkload(1, 40, 100, FLOAT32, packed=True),
    "left transposed": MatmulWorkload(9, 20, 30, FLOAT32, packed=True, transpose_a=True),
    "plain layout": PlainConvWorkload(ConvSpec(20, 6, (3, 2), (2, 1), (1, 1), (0, 1), (2, 0)), 2, (10, 21)),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_candidates_of_every_family_compute_the_same(name: str) -> None:
    workload = WORKLOADS[name]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(_weight_shape(workload)).astype(np.float32)
    defined = Plans().define(workload)
    assert defined is not None
    plain, plan = defined
    definition = bare_function(plain, workload, plan)
    data = rng.standard_normal(_shape(definition, 0)).astype(np.float32)
    result = np.empty(_shape(definition, 2), np.float32)
    (expected,) = execute(definition, [data, plain.pack(weight, workload, plan)], [result])
    for family in families_for(workload, MACHINE):
        plans = every_plan(family, workload, MACHINE)
        for plan in (*plans[:2], *plans[2::4]):
            packed = family.pack(weight, workload, plan)
            assert packed.shape == family.packed_shape(workload, plan)
            function = schedule_function(bare_function(family, workload, plan), MACHINE)
            (found,) = execute(function, [data, packed], [result])
            np.testing.assert_allclose(_real(found, workload), _real(expected, workload), rtol=1e-3, atol=1e-3)


def _shape(function: tirx.PrimFunc, place: int) -> list[int]:
    return [int(size) for size in function.params[place].shape]


def _weight_shape(workload: Workload) -> tuple[int, ...]:
    if isinstance(workload, MatmulWorkload):
        assert workload.k is not None
        assert workload.n is not None
        return workload.k, workload.n
    assert isinstance(workload, ConvWorkload | PlainConvWorkload)
    return workload.spec.out_channels, workload.spec.in_channels // workload.spec.groups, *workload.spec.kernel


def _real(array: np.ndarray, workload: Workload) -> np.ndarray:
    """Without the lanes beyond the last channel, which may hold anything."""
    if not isinstance(workload, ConvWorkload):
        return array
    flat = np.moveaxis(array, -1, 2)
    return flat.reshape(flat.shape[0], -1, *flat.shape[3:])[:, : workload.spec.out_channels]


@pytest.mark.parametrize("name", WORKLOADS)
def test_plans_are_told_apart_by_their_numbers(name: str) -> None:
    workload = WORKLOADS[name]
    for family in families_for(workload, MACHINE):
        plans = every_plan(family, workload, MACHINE)
        for plan in plans:
            assert find_plan(family, family.numbers(plan), workload, MACHINE) == plan
        assert len({family.numbers(plan) for plan in plans}) == len(plans)
        assert find_plan(family, (99, 99), workload, MACHINE) is None


def test_families_have_names_of_their_own() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_a_family_is_a_folder_and_one_line() -> None:
    """Every folder with a `family.py` is registered, and holds its plan, its definition and its schedules."""
    folders = {file.parent for file in KERNELS.glob("*/family.py")}
    assert {KERNELS / type(family).__module__.split(".")[-2] for family in FAMILIES} == folders
    for family in FAMILIES:
        folder = KERNELS / type(family).__module__.split(".")[-2]
        assert {"plan", "compute", *family.schedules} <= {file.stem for file in folder.glob("*.py")}


def test_keys_tell_workloads_apart() -> None:
    changed = [
        dataclasses.replace(conv(), batch=None),
        dataclasses.replace(conv(), batch=2),
        dataclasses.replace(conv(), lanes=16),
        dataclasses.replace(conv(), blocked=False),
        dataclasses.replace(conv(), space=(8, 9)),
        dataclasses.replace(conv(), dtypes=Dtypes.of("float16")),
        dataclasses.replace(conv(), dtypes=Dtypes("uint8", "int8", "int32", "int32")),
        dataclasses.replace(conv(), dtypes=Dtypes("uint8", "int8", "int32", "uint8")),
        *[
            dataclasses.replace(conv(), spec=dataclasses.replace(conv().spec, **{field: value}))
            for field, value in (
                ("kernel", (3, 5)), ("strides", (1, 2)), ("dilations", (2, 1)), ("pads_begin", (0, 1)),
                ("pads_end", (1, 0)), ("groups", 2), ("in_channels", 17), ("out_channels", 17),
            )
        ],
    ]  # fmt: skip
    keys = {workload.key for workload in [conv(), *changed, *WORKLOADS.values()]}
    assert len(keys) == 1 + len(changed) + len(WORKLOADS)


FLOAT16, BYTES = Dtypes.of("float16"), Dtypes("uint8", "int8", "int32", "int32")


@pytest.mark.parametrize(
    "workload",
    [
        dataclasses.replace(conv(), dtypes=FLOAT16),
        dataclasses.replace(conv(24, 24, groups=24), dtypes=dataclasses.replace(BYTES, weight="uint8")),
        dataclasses.replace(conv(), dtypes=BYTES, blocked=False),
        dataclasses.replace(conv(64, 64, 28), dtypes=dataclasses.replace(FLOAT32, result="float16")),
        MatmulWorkload(8, 8, 8, dataclasses.replace(BYTES, weight="uint8"), packed=False),
        MatmulWorkload(8, 8, None, FLOAT32),
        PlainConvWorkload(conv().spec, 1, (8, 8), Dtypes.of("float64")),
    ],
    ids=lambda workload: workload.key,
)
def test_no_family_takes_types_or_sizes_that_it_has_no_kernel_for(workload: Workload) -> None:
    plans = Plans(MACHINE)
    assert plans.choose(workload) is None
    assert plans.define(workload) is None
    assert not plans.workloads


def test_only_families_with_a_schedule_for_the_device_are_chosen() -> None:
    assert families_for(conv(), MACHINE, "cpu")
    assert not families_for(conv(), MACHINE, "cuda")
    assert Plans(MACHINE, device="cuda").choose(conv()) is None


def test_a_measured_plan_is_used_and_counted(tmp_path: Path) -> None:
    workload = conv(64, 64, 14)
    for family in families_for(workload, MACHINE):
        plan = family.candidates(workload, MACHINE)[-1]
        kept = records(tmp_path / family.name)
        kept.add(record(workload, Trial(family.name, family.version, family.numbers(plan), 1e-4)))
        plans = Plans(MACHINE, kept)
        assert plans.choose(workload) == (family, plan)
        plans.choose(workload)
        plans.choose(conv(size=9))
        assert plans.tuned == {workload.key}
        assert plans.workloads == {workload: 2, conv(size=9): 1}


@pytest.mark.parametrize(
    "trial",
    [
        Trial("conv_direct", 999, (3, 2, 1), 1e-4),
        Trial("conv_direct", 1, (100, 100, 0), 1e-4),
        Trial("conv_direct", 1, (), 1e-4),
        Trial("conv_magic", 1, (3, 2, 1), 1e-4),
        Trial("conv_depthwise", 1, (4,), 1e-4),
    ],
    ids=["of another version", "no candidate", "no plan", "of no family", "of a family that does not apply"],
)
def test_a_record_that_does_not_fit_is_passed_over(tmp_path: Path, trial: Trial) -> None:
    kept = records(tmp_path)
    kept.add(record(conv(), trial))
    plans = Plans(MACHINE, kept)
    assert plans.choose(conv()) == default(conv(), MACHINE)
    assert not plans.tuned


def test_what_is_only_defined_is_defined_plainly() -> None:
    plans = Plans()
    assert plans.choose(conv(64, 64, 28)) is None
    defined = plans.define(conv(64, 64, 28))
    assert defined is not None
    assert defined[0].name == "conv_direct"
    assert not plans.workloads
    assert default(conv(64, 64, 28), MACHINE)[0].name == "conv_winograd"


@pytest.mark.parametrize(
    ("workload", "tunable"),
    [
        (conv(), True),
        (dataclasses.replace(conv(), batch=None), True),
        (dataclasses.replace(conv(), batch=0), False),
        (MatmulWorkload(8, 8, 8, FLOAT32, packed=True), True),
        (MatmulWorkload(8, 8, 8, FLOAT32), False),
        (MatmulWorkload(None, 8, 8, FLOAT32, packed=True), False),
        (MatmulWorkload(0, 8, 8, FLOAT32, packed=True), False),
    ],
)
def test_what_can_be_measured(workload: Workload, tunable: bool) -> None:
    assert workload.is_tunable is tunable
    plans = Plans(MACHINE)
    assert plans.choose(workload) == default(workload, MACHINE)
    assert bool(plans.workloads) is tunable


def test_work_is_counted() -> None:
    assert conv(16, 24, 8).flops == 2 * 24 * 64 * 16 * 9
    assert conv(24, 24, 8, groups=24).flops == 2 * 24 * 64 * 9
    assert MatmulWorkload(2, 3, 5, FLOAT32, packed=True).flops == 60
