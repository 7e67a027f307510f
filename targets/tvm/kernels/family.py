"""The interface of a kernel family, and of what it computes: for lowering, for scheduling and for the tuner.

A workload says what is to be computed: sizes, and the element types of the operands, the sums and the result. A family
computes some workloads in one way; a plan says how exactly, in a few integers. `kernels/families.py` lists the
families, `kernels/plans.py` chooses one of them, and `lowering/kernel.py` emits what was chosen.
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
"""Schedules a fused function; None for one that is not its own."""


@dataclass(frozen=True)
class Dtypes:
    """Element types, by TVM's names: of the data, of the weight, of the sums and of the result."""

    data: str
    weight: str
    accumulator: str
    result: str

    @staticmethod
    def of(dtype: str) -> Dtypes:
        """Those of an operation whose operands and result are of one type."""
        return Dtypes(dtype, dtype, accumulator(dtype), dtype)

    @property
    def is_uniform(self) -> bool:
        """Return whether operands and result are of one type."""
        return self.data == self.weight == self.result

    def __str__(self) -> str:
        return f"{self.data}*{self.weight}+{self.accumulator}->{self.result}"


FLOAT32 = Dtypes.of("float32")


class Workload(ABC):
    """What is to be computed, a frozen dataclass: a data operand and a weight, with all sizes that are known."""

    dtypes: Dtypes

    @property
    @abstractmethod
    def key(self) -> str:
        """The name of the workload in records: equal exactly for equal workloads."""

    @property
    @abstractmethod
    def flops(self) -> int:
        """Multiplications and additions of the definition, for one image where the batch is open."""

    @property
    @abstractmethod
    def is_tunable(self) -> bool:
        """Whether every size that the work depends on is known (a batch may be open), and there is work at all."""

    @property
    @abstractmethod
    def data_shape(self) -> tuple[int, ...]:
        """The shape of the data where the workload `is_tunable`; an open batch is one image."""

    @property
    def is_packed(self) -> bool:
        """Return whether the weight is a constant, which the kernel reads as `Family.pack` lays it out."""
        return True


class Family(Protocol):
    """One way to compute a kind of workload."""

    name: str
    version: int
    """To be raised when a plan comes to mean other code: what was measured before counts no more."""
    schedules: Mapping[str, Rule]
    """The family's loop nests by the kind of device ("cpu", "cuda"). Each claims the functions of `compute` alone."""

    def supports(self, workload: Workload, machine: Machine) -> bool:
        """Whether the family can compute this workload, in these element types, with the machine's instructions."""
        ...

    def default(self, workload: Any, machine: Machine) -> Plan | None:
        """The plan that is best by a closed form; None where another family is expected to be faster."""
        ...

    def candidates(self, workload: Any, machine: Machine) -> list[Plan]:
        """The plans worth measuring, the most promising first."""
        ...

    def numbers(self, plan: Plan) -> tuple[int, ...]:
        """What a record keeps of a plan; different plans for a workload have different numbers."""
        return tuple(int(number) for number in dataclasses.astuple(plan))

    def cost(self, workload: Any, plan: Plan, machine: Machine) -> float:
        """The time that a plan is expected to take, to be compared with that of the family's others for a workload.

        All take the same where a family does not say.
        """
        return 1.0

    def packed_shape(self, workload: Any, plan: Plan) -> tuple[int, ...]:
        """The shape of the weight as the kernel reads it, for a workload that `is_packed`."""
        ...

    def layout(self, workload: Any, plan: Plan) -> tuple[Hashable, ...]:
        """What the packed weight depends on beside the weight: equal layouts of one weight are the same numbers."""
        ...

    def pack(self, weight: np.ndarray, workload: Any, plan: Plan) -> np.ndarray:
        """The weight as the kernel reads it: called when weights are written, not when a plan is chosen."""
        ...

    def parts(self, weight: np.ndarray, workload: Any, plan: Plan) -> Iterator[np.ndarray]:
        """Yield what `pack` returns in consecutive parts, so that a large weight is never in memory twice."""
        yield self.pack(weight, workload, plan)

    def compute(
        self, data: te.Tensor, weight: te.Tensor, workload: Any, plan: Plan, out_space: Sequence[Any] | None = None
    ) -> te.Tensor:
        """The definition, annotated with the plan for the family's schedules.

        `weight` is packed where the workload `is_packed`. `out_space`: the spatial extents of the result of a
        convolution where they follow from sizes that are not known.
        """
        ...


def bare_function(family: Family, workload: Workload, plan: Plan) -> tvm.tirx.PrimFunc:
    """The kernel by itself, not scheduled: data, packed weight, result. An open batch is one image."""
    data = te.placeholder([*workload.data_shape], workload.dtypes.data, "data")
    packed = te.placeholder([*family.packed_shape(workload, plan)], workload.dtypes.weight, "packed")
    made = te.create_prim_func([data, packed, family.compute(data, packed, workload, plan)], "int64")
    return made.with_attrs({"global_symbol": "main", "tirx.noalias": True})


def find_plan(family: Family, numbers: Sequence[int], workload: Workload, machine: Machine) -> Plan | None:
    """The candidate of these numbers; None where the family would not measure such a plan (any more)."""
    wanted = tuple(numbers)
    return next((plan for plan in every_plan(family, workload, machine) if family.numbers(plan) == wanted), None)


def every_plan(family: Family, workload: Workload, machine: Machine) -> list[Plan]:
    """The candidates, each once, after the default if there is one."""
    first = family.default(workload, machine)
    found = {} if first is None else {family.numbers(first): first}
    for plan in family.candidates(workload, machine):
        found.setdefault(family.numbers(plan), plan)
    return list(found.values())
