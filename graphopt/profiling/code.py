"""The cost of a compilation: the time of each stage, and of generating the code of each kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.util.tables import Table, format_bytes, format_seconds

_WIDTH = 48  # of a name in a table


@dataclass(frozen=True)
class KernelCode:
    """The code of one kernel, and the cost of generating it.

    `layers` are the names of the user's nodes that the kernel computes; arithmetic on sizes has none. `schedule` names
    the kernel family and its plan. `seconds` is the CPU time from the scheduled function to machine code (TVM's passes
    and LLVM, without linking), and `bytes` the size of the machine code.
    """

    function: str
    layers: tuple[str, ...]
    schedule: str
    seconds: float
    bytes: int

    @property
    def label(self) -> str:
        """The function and the nodes that it computes, as `fused_matmul_add (/fc1/MatMul +1)`."""
        return f"{self.function} ({named})" if (named := shortened(self.layers)) else self.function


@dataclass(frozen=True)
class Code:
    """The wall-clock seconds of each stage of a compilation, and the cost of each kernel.

    Several cores generate kernels at once, so the sum of their CPU time may exceed the time of the stage. There are no
    kernels for a GPU, whose kernels are compiled together.
    """

    stages: Mapping[str, float]
    kernels: tuple[KernelCode, ...]

    def slowest(self, number: int) -> list[KernelCode]:
        """Return the kernels whose code took longest to generate, slowest first."""
        return sorted(self.kernels, key=lambda kernel: -kernel.seconds)[:number]

    def stages_table(self) -> Table:
        """Return a table of the time of each stage."""
        table = Table("stages", ("stage", "time"), right=frozenset({"time"}))
        for stage, seconds in self.stages.items():
            table.add(stage, format_seconds(seconds))
        return table

    def kernels_table(self, number: int) -> Table:
        """Return a table of the kernels whose code took longest to generate."""
        total = format_seconds(sum(kernel.seconds for kernel in self.kernels))
        title = f"slowest code generation of {len(self.kernels)} kernels, {total} of CPU time in total"
        numbers = ("time", "machine code")
        table = Table(title, ("layers", "kernel", *numbers, "schedule"), right=frozenset(numbers))
        for kernel in self.slowest(number):
            table.add(
                _cut(shortened(kernel.layers)) or "-",
                _cut(kernel.function),
                format_seconds(kernel.seconds),
                format_bytes(kernel.bytes),
                kernel.schedule or "-",
            )
        return table


def _cut(name: str) -> str:
    """Return a name in at most `_WIDTH` characters: fusion and exporters make names of hundreds."""
    return name if len(name) <= _WIDTH else f"{name[: _WIDTH - 3]}..."


def shortened(layers: Sequence[str]) -> str:
    """Return the first of a kernel's layers and the number of further ones; "" if there are none."""
    if len(layers) < 2:
        return "".join(layers)
    return f"{layers[0]} +{len(layers) - 1}"
