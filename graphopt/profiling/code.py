"""What generating code took: seconds of each stage of a compilation, and of each kernel of the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.util.tables import Table, format_bytes, format_seconds


@dataclass(frozen=True)
class KernelCode:
    """The code of one kernel, and what it took to generate it.

    `layers` are the names of the user's nodes that the kernel computes; arithmetic on sizes has none. `schedule` names
    the kernel family and its plan. `seconds` is the processor time from the scheduled function to machine code: TVM's
    passes and LLVM's, without linking. `bytes` is the size of the machine code.
    """

    function: str
    layers: tuple[str, ...]
    schedule: str
    seconds: float
    bytes: int

    @property
    def label(self) -> str:
        """The function and the nodes that it computes: `fused_matmul_add (/fc1/MatMul +1)`."""
        return f"{self.function} ({named})" if (named := shortened(self.layers)) else self.function


@dataclass(frozen=True)
class Code:
    """How long a compilation took: wall-clock seconds of each stage, and the kernels' code.

    Kernels are generated on several cores at once: their seconds may add up to more than their stage's. The list is
    empty for a GPU, whose kernels are compiled together.
    """

    stages: Mapping[str, float]
    kernels: tuple[KernelCode, ...]

    def slowest(self, number: int) -> list[KernelCode]:
        """The kernels whose code took longest to generate, the slowest first."""
        return sorted(self.kernels, key=lambda kernel: -kernel.seconds)[:number]

    def stages_table(self) -> Table:
        """The time of each stage."""
        table = Table("stages", ("stage", "time"), right=frozenset({"time"}))
        for stage, seconds in self.stages.items():
            table.add(stage, format_seconds(seconds))
        return table

    def kernels_table(self, number: int) -> Table:
        """The slowest kernels to generate."""
        total = format_seconds(sum(kernel.seconds for kernel in self.kernels))
        title = f"kernels slowest to generate code for, of {len(self.kernels)} that took {total} of processor time"
        numbers = ("time", "machine code")
        table = Table(title, ("layers", "kernel", *numbers, "schedule"), right=frozenset(numbers))
        for kernel in self.slowest(number):
            table.add(
                shortened(kernel.layers) or "-",
                kernel.function,
                format_seconds(kernel.seconds),
                format_bytes(kernel.bytes),
                kernel.schedule or "-",
            )
        return table


def shortened(layers: Sequence[str]) -> str:
    """The first of a kernel's layers, and how many more there are; "" where there is none."""
    if len(layers) < 2:
        return "".join(layers)
    return f"{layers[0]} +{len(layers) - 1}"
