"""The kernel families that a workload can be computed by, each behind one interface: for lowering and for the tuner.

A workload says what is to be computed, with all sizes; a family computes some workloads in one way; a plan says how
exactly, in a few integers. Adding a family means one more entry of `FAMILIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import tvm
from tvm import te

from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.depthwise import compute as depthwise
from graphopt.targets.tvm.kernels.depthwise import plan as depthwise_plan
from graphopt.targets.tvm.kernels.direct import compute as direct
from graphopt.targets.tvm.kernels.direct import plan as direct_plan
from graphopt.targets.tvm.kernels.matmul import compute as matmul
from graphopt.targets.tvm.kernels.matmul import plan as matmul_plan
from graphopt.targets.tvm.kernels.matmul.plan import MatmulPlan, MatmulWorkload
from graphopt.targets.tvm.kernels.winograd import compute as winograd
from graphopt.targets.tvm.kernels.winograd import plan as winograd_plan
from graphopt.targets.tvm.machine import Machine

Workload = ConvWorkload | MatmulWorkload
Plan = Any
"""A family's own frozen dataclass."""


class Family(Protocol):
    """One way to compute a kind of workload."""

    name: str
    version: int
    """To be raised when a plan comes to mean other code: what was measured before counts no more."""

    def applies(self, workload: Any) -> bool:
        """Whether the family can compute this workload."""
        ...

    def default(self, workload: Any, machine: Machine) -> Plan | None:
        """The plan that is best by a closed form; None where another family is expected to be faster."""
        ...

    def candidates(self, workload: Any, machine: Machine) -> list[Plan]:
        """The plans worth measuring, the most promising first."""
        ...

    def numbers(self, plan: Plan) -> tuple[int, ...]:
        """What a record keeps of a plan; different plans for a workload have different numbers."""
        ...

    def cost(self, workload: Any, plan: Plan, machine: Machine) -> float:
        """The time that a plan is expected to take, to be compared with that of the family's others for a workload."""
        ...

    def packed_shape(self, workload: Any, plan: Plan) -> tuple[int, ...]:
        """The shape of the constant operand as the kernel reads it."""
        ...

    def layout(self, workload: Any, plan: Plan) -> tuple[Hashable, ...]:
        """What the packed operand depends on beside the weight: equal layouts of one weight are the same numbers."""
        ...

    def pack(self, weight: np.ndarray, workload: Any, plan: Plan) -> np.ndarray:
        """The constant operand as the kernel reads it."""
        ...

    def parts(self, weight: np.ndarray, workload: Any, plan: Plan) -> Iterator[np.ndarray]:
        """Yield what `pack` returns in consecutive parts, so that a large weight is never in memory twice."""
        ...

    def compute(self, data: te.Tensor, packed: te.Tensor, workload: Any, plan: Plan) -> te.Tensor:
        """The definition, annotated with the plan for the family's schedule."""
        ...


class Direct:
    """Convolution as it is written: a register tile summed over channels and taps."""

    name = "conv_direct"
    version = 2

    def applies(self, workload: Workload) -> bool:
        return isinstance(workload, ConvWorkload) and not is_depthwise(workload)

    def default(self, workload: ConvWorkload, machine: Machine) -> direct_plan.DirectPlan:
        return direct_plan.plan_direct(workload, machine)

    def candidates(self, workload: ConvWorkload, machine: Machine) -> list[direct_plan.DirectPlan]:
        return direct_plan.candidates(workload, machine)

    def numbers(self, plan: direct_plan.DirectPlan) -> tuple[int, ...]:
        return _integers(plan)

    def cost(self, workload: ConvWorkload, plan: direct_plan.DirectPlan, machine: Machine) -> float:
        return direct_plan.cycles(workload, plan, machine)

    def packed_shape(self, workload: ConvWorkload, plan: direct_plan.DirectPlan) -> tuple[int, ...]:
        return (direct_plan.packed_size(workload),)

    def layout(self, workload: ConvWorkload, plan: direct_plan.DirectPlan) -> tuple[Hashable, ...]:
        return workload.lanes, workload.blocked, workload.spec.groups, workload.is_banded, plan.vectors

    def pack(self, weight: np.ndarray, workload: ConvWorkload, plan: direct_plan.DirectPlan) -> np.ndarray:
        return direct.pack_weight(weight, workload, plan)

    def parts(self, weight: np.ndarray, workload: ConvWorkload, plan: direct_plan.DirectPlan) -> Iterator[np.ndarray]:
        yield self.pack(weight, workload, plan)

    def compute(
        self, data: te.Tensor, packed: te.Tensor, workload: ConvWorkload, plan: direct_plan.DirectPlan
    ) -> te.Tensor:
        return direct.direct(data, packed, workload, plan)


class Winograd:
    """Convolution by a 3x3 kernel with fewer products, at some cost in accuracy (see `kernels.winograd`)."""

    name = "conv_winograd"
    version = 1

    def applies(self, workload: Workload) -> bool:
        return isinstance(workload, ConvWorkload) and winograd_plan.applies(workload)

    def default(self, workload: ConvWorkload, machine: Machine) -> winograd_plan.WinogradPlan | None:
        return winograd_plan.worth(workload, machine)

    def candidates(self, workload: ConvWorkload, machine: Machine) -> list[winograd_plan.WinogradPlan]:
        return winograd_plan.candidates(workload, machine)

    def numbers(self, plan: winograd_plan.WinogradPlan) -> tuple[int, ...]:
        return _integers(plan)

    def cost(self, workload: ConvWorkload, plan: winograd_plan.WinogradPlan, machine: Machine) -> float:
        return winograd_plan.cycles(workload, plan, machine)

    def packed_shape(self, workload: ConvWorkload, plan: winograd_plan.WinogradPlan) -> tuple[int, ...]:
        return winograd.packed_shape(workload, plan)

    def layout(self, workload: ConvWorkload, plan: winograd_plan.WinogradPlan) -> tuple[Hashable, ...]:
        return workload.lanes, plan.outputs, plan.vectors

    def pack(self, weight: np.ndarray, workload: ConvWorkload, plan: winograd_plan.WinogradPlan) -> np.ndarray:
        return winograd.pack_weight(weight, workload, plan)

    def parts(
        self, weight: np.ndarray, workload: ConvWorkload, plan: winograd_plan.WinogradPlan
    ) -> Iterator[np.ndarray]:
        yield self.pack(weight, workload, plan)

    def compute(
        self, data: te.Tensor, packed: te.Tensor, workload: ConvWorkload, plan: winograd_plan.WinogradPlan
    ) -> te.Tensor:
        return winograd.winograd(data, packed, workload, plan)


class Depthwise:
    """Each channel by a filter of its own."""

    name = "conv_depthwise"
    version = 1

    def applies(self, workload: Workload) -> bool:
        return isinstance(workload, ConvWorkload) and is_depthwise(workload)

    def default(self, workload: ConvWorkload, machine: Machine) -> depthwise_plan.DepthwisePlan:
        return depthwise_plan.plan_depthwise(workload, machine)

    def candidates(self, workload: ConvWorkload, machine: Machine) -> list[depthwise_plan.DepthwisePlan]:
        return depthwise_plan.candidates(workload, machine)

    def numbers(self, plan: depthwise_plan.DepthwisePlan) -> tuple[int, ...]:
        return _integers(plan)

    def cost(self, workload: ConvWorkload, plan: depthwise_plan.DepthwisePlan, machine: Machine) -> float:
        return 1.0

    def packed_shape(self, workload: ConvWorkload, plan: depthwise_plan.DepthwisePlan) -> tuple[int, ...]:
        return (-(-workload.spec.out_channels // workload.lanes), workload.geometry.taps, workload.lanes)

    def layout(self, workload: ConvWorkload, plan: depthwise_plan.DepthwisePlan) -> tuple[Hashable, ...]:
        return (workload.lanes,)

    def pack(self, weight: np.ndarray, workload: ConvWorkload, plan: depthwise_plan.DepthwisePlan) -> np.ndarray:
        return depthwise.pack_weight(weight, workload)

    def parts(
        self, weight: np.ndarray, workload: ConvWorkload, plan: depthwise_plan.DepthwisePlan
    ) -> Iterator[np.ndarray]:
        yield self.pack(weight, workload, plan)

    def compute(
        self, data: te.Tensor, packed: te.Tensor, workload: ConvWorkload, plan: depthwise_plan.DepthwisePlan
    ) -> te.Tensor:
        return depthwise.depthwise(data, packed, workload, plan)


class Matmul:
    """A product with a matrix packed in panels; one that is only known at run time is planned, but not measured."""

    name = "matmul"
    version = 2

    def applies(self, workload: Workload) -> bool:
        return isinstance(workload, MatmulWorkload)

    def default(self, workload: MatmulWorkload, machine: Machine) -> MatmulPlan:
        return MatmulPlan.default(workload, machine)

    def candidates(self, workload: MatmulWorkload, machine: Machine) -> list[MatmulPlan]:
        return list(matmul_plan.candidates(workload, machine))

    def numbers(self, plan: MatmulPlan) -> tuple[int, ...]:
        return (plan.lanes, plan.rows, plan.vectors, plan.k_block, plan.m_block)

    def cost(self, workload: MatmulWorkload, plan: MatmulPlan, machine: Machine) -> float:
        return matmul_plan.cycles(plan)

    def packed_shape(self, workload: MatmulWorkload, plan: MatmulPlan) -> tuple[int, ...]:
        return plan.packed_shape

    def layout(self, workload: MatmulWorkload, plan: MatmulPlan) -> tuple[Hashable, ...]:
        return (plan.width,)

    def pack(self, weight: np.ndarray, workload: MatmulWorkload, plan: MatmulPlan) -> np.ndarray:
        return matmul.pack_matrix(weight, plan)

    def parts(self, weight: np.ndarray, workload: MatmulWorkload, plan: MatmulPlan) -> Iterator[np.ndarray]:
        return matmul.panels(weight, plan)

    def compute(self, data: te.Tensor, packed: te.Tensor, workload: MatmulWorkload, plan: MatmulPlan) -> te.Tensor:
        return matmul.matmul_packed(data, packed, plan)


FAMILIES: tuple[Family, ...] = (Winograd(), Direct(), Depthwise(), Matmul())
"""In the order in which they are asked for a default; of those for a workload, the last has the plainest definition."""


def families_for(workload: Workload) -> list[Family]:
    """Those that can compute a workload, in the order of FAMILIES: at least one."""
    return [family for family in FAMILIES if family.applies(workload)]


def is_depthwise(workload: ConvWorkload) -> bool:
    spec = workload.spec
    return workload.blocked and 1 < spec.groups == spec.in_channels == spec.out_channels


def is_tunable(workload: Workload) -> bool:
    """Every size that the work depends on is known (a batch may be open), and there is work at all."""
    if isinstance(workload, MatmulWorkload):
        return workload.packed and bool(workload.m and workload.n and workload.k)
    return workload.batch != 0 and flops(workload) > 0


def key(workload: Workload) -> str:
    """The name of a workload in records: equal exactly for equal workloads."""
    if isinstance(workload, MatmulWorkload):
        sizes = " ".join(f"{name}{size or '?'}" for name, size in zip("mnk", (workload.m, workload.n, workload.k)))
        return f"matmul {sizes} {workload.dtype}{' packed' if workload.packed else ''}"
    spec = workload.spec
    return (
        f"conv n{workload.batch or '?'} i{_by(spec.in_channels, *workload.space)} o{spec.out_channels}"
        f" k{_by(*spec.kernel)} s{_by(*spec.strides)} d{_by(*spec.dilations)}"
        f" p{_by(*spec.pads_begin)}+{_by(*spec.pads_end)} g{spec.groups}"
        f" v{workload.lanes}{' blocked' if workload.blocked else ''}"
    )


def flops(workload: Workload) -> int:
    """Multiplications and additions of the definition, for one image where the batch is open."""
    if isinstance(workload, MatmulWorkload):
        return 2 * (workload.m or 1) * (workload.n or 1) * (workload.k or 1)
    positions = int(np.prod(workload.geometry.out_space))
    return 2 * (workload.batch or 1) * workload.spec.out_channels * positions * workload.depth


def bare_function(family: Family, workload: Workload, plan: Plan) -> tvm.tirx.PrimFunc:
    """The kernel by itself, not scheduled: data, packed operand, result. An open batch is one image."""
    shape, dtype = _data(workload)
    data = te.placeholder([*shape], dtype, "data")
    packed = te.placeholder([*family.packed_shape(workload, plan)], dtype, "packed")
    made = te.create_prim_func([data, packed, family.compute(data, packed, workload, plan)], "int64")
    return made.with_attrs({"global_symbol": "main", "tirx.noalias": True})


def _data(workload: Workload) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of the operand that is not constant."""
    if isinstance(workload, MatmulWorkload):
        assert workload.m is not None
        assert workload.k is not None
        return (workload.m, workload.k), workload.dtype
    batch, channels = workload.batch or 1, workload.spec.in_channels
    if not workload.blocked:
        return (batch, channels, *workload.space), "float32"
    return (batch, -(-channels // workload.lanes), *workload.space, workload.lanes), "float32"


def _integers(plan: Plan) -> tuple[int, ...]:
    return tuple(int(number) for number in dataclasses.astuple(plan))


def _by(*sizes: int) -> str:
    return "x".join(str(size) for size in sizes)


def find_plan(family: Family, numbers: Sequence[int], workload: Workload, machine: Machine) -> Plan | None:
    """The candidate of these numbers; None where the family would not measure such a plan (any more)."""
    wanted = tuple(numbers)
    return next((plan for plan in every_plan(family, workload, machine) if family.numbers(plan) == wanted), None)


def every_plan(family: Family, workload: Workload, machine: Machine) -> list[Plan]:
    """The candidates, each once, behind the default if there is one."""
    first = family.default(workload, machine)
    found = {} if first is None else {family.numbers(first): first}
    for plan in family.candidates(workload, machine):
        found.setdefault(family.numbers(plan), plan)
    return list(found.values())
