"""The interfaces of kernel families and of workloads, for lowering, scheduling and tuning.

A workload describes a computation: sizes, and the element types of operands, accumulator and result. A family computes
some workloads with one algorithm; a plan gives its parameters as a few integers. `kernels/families.py` lists the
families, `kernels/plans.py` chooses one of them, and `lowering/kernel.py` emits the chosen one.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tvm
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.computes import accumulator
from graphopt.targets.tvm.machine import Machine

Plan = Any
"""A family's own frozen dataclass."""

Rule = Callable[[tirx.PrimFunc, Machine], tirx.PrimFunc | None]
"""Schedules a fused function; returns None for one of another family."""


@dataclass(frozen=True)
class Dtypes:
    """Element types, by TVM's names: of the data, the weight, the accumulator and the result.

    `small_weight`: no weight is larger than 64 in size, so that the sum of two products with bytes fits 16 bits.
    """

    data: str
    weight: str
    accumulator: str
    result: str
    small_weight: bool = False

    @staticmethod
    def of(dtype: str) -> Dtypes:
        """Return the types of an operation whose operands and result have the same type."""
        return Dtypes(dtype, dtype, accumulator(dtype), dtype)

    @property
    def is_uniform(self) -> bool:
        """Return whether operands and result are of one type."""
        return self.data == self.weight == self.result

    def __str__(self) -> str:
        small = " small" if self.small_weight else ""
        return f"{self.data}*{self.weight}{small}+{self.accumulator}->{self.result}"


FLOAT32 = Dtypes.of("float32")


class Workload(ABC):
    """A computation as a frozen dataclass: a data operand and a weight, with all known sizes."""

    dtypes: Dtypes

    @property
    @abstractmethod
    def key(self) -> str:
        """The name of the workload in records; equal if and only if workloads are equal."""

    @property
    @abstractmethod
    def flops(self) -> int:
        """The multiplications and additions of the definition, for one image if the batch is open."""

    @property
    @abstractmethod
    def is_tunable(self) -> bool:
        """Whether every size that the work depends on is known (except the batch), and there is work at all."""

    @property
    @abstractmethod
    def data_shape(self) -> tuple[int, ...]:
        """The shape of the data if the workload `is_tunable`; an open batch counts as one image."""

    @property
    def is_packed(self) -> bool:
        """Whether the weight is a constant, which the kernel reads in the layout of `Family.pack`."""
        return True


class Family(Protocol):
    """An algorithm for one kind of workload."""

    name: str
    version: int
    """The version in `kernels/versions.py`."""
    schedules: Mapping[str, Rule]
    """The family's schedules by kind of device ("cpu", "cuda"), each for the functions of `compute` only."""

    def supports(self, workload: Workload, machine: Machine) -> bool:
        """Return whether the family can compute this workload, with its types, with the machine's instructions."""
        ...

    def default(self, workload: Any, machine: Machine) -> Plan | None:
        """Return the best plan by a closed-form estimate; None if another family is expected to be faster."""
        ...

    def candidates(self, workload: Any, machine: Machine) -> list[Plan]:
        """Return the plans worth measuring, the most promising first."""
        ...

    def numbers(self, plan: Plan) -> tuple[int, ...]:
        """Return the numbers that identify a plan in records; different plans for a workload have different numbers."""
        return tuple(int(number) for number in dataclasses.astuple(plan))

    def cost(self, workload: Any, plan: Plan, machine: Machine) -> float:
        """Return the expected time of a plan, to be compared with that of the family's other plans for a workload.

        By default, all plans have the same cost.
        """
        return 1.0

    def packed_shape(self, workload: Any, plan: Plan) -> tuple[int, ...]:
        """Return the shape of the packed weight, for a workload that `is_packed`."""
        ...

    def layout(self, workload: Any, plan: Plan) -> tuple[Hashable, ...]:
        """Return what the packed weight depends on besides the weight: equal layouts of a weight are identical."""
        ...

    def pack(self, weight: np.ndarray, workload: Any, plan: Plan) -> np.ndarray:
        """Return the packed weight; called when weights are written, not when a plan is chosen."""
        ...

    def parts(self, weight: np.ndarray, workload: Any, plan: Plan) -> Iterator[np.ndarray]:
        """Yield what `pack` returns in consecutive parts, so that a large weight is never in memory twice."""
        yield self.pack(weight, workload, plan)

    def compute(
        self, data: te.Tensor, weight: te.Tensor, workload: Any, plan: Plan, out_space: Sequence[Any] | None = None
    ) -> te.Tensor:
        """Return the definition, annotated with the plan for the family's schedules.

        `weight` is packed if the workload `is_packed`. `out_space`: the spatial extents of the result of a convolution
        if they depend on unknown sizes.
        """
        ...


def bare_function(family: Family, workload: Workload, plan: Plan) -> tvm.tirx.PrimFunc:
    """Return the unscheduled kernel on its own: data, packed weight, result. An open batch is one image."""
    data = te.placeholder([*workload.data_shape], workload.dtypes.data, "data")
    packed = te.placeholder([*family.packed_shape(workload, plan)], workload.dtypes.weight, "packed")
    made = te.create_prim_func([data, packed, family.compute(data, packed, workload, plan)], "int64")
    return made.with_attrs({"global_symbol": "main", "tirx.noalias": True})


def find_plan(family: Family, numbers: Sequence[int], workload: Workload, machine: Machine) -> Plan | None:
    """Return the candidate with these numbers; None if the family would not measure such a plan (any more)."""
    wanted = tuple(numbers)
    return next((plan for plan in every_plan(family, workload, machine) if family.numbers(plan) == wanted), None)


def every_plan(family: Family, workload: Workload, machine: Machine) -> list[Plan]:
    """Return the candidates, each once, after the default if there is one."""
    first = family.default(workload, machine)
    found = {} if first is None else {family.numbers(first): first}
    for plan in family.candidates(workload, machine):
        found.setdefault(family.numbers(plan), plan)
    return list(found.values())
