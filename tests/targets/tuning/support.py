"""Workloads, records and a bench that returns given times instead of measuring them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tvm import tirx

from graphopt.hardware.target import Target
from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, ConvWorkload
from graphopt.targets.tvm.kernels.family import Workload
from graphopt.targets.tvm.kernels.plans import Plans
from graphopt.targets.tvm.lowering.provenance import SCHEDULE
from graphopt.targets.tvm.machine import Machine, machine_for
from graphopt.targets.tvm.tuning.records import Record, Records, Trial

TARGET = Target("test", "a test's", "cpu", "x86_64", "x86-64-v3", ("avx2", "fma"), vector_bits=256, cores=2)
MACHINE: Machine = machine_for(TARGET)


def conv(inputs: int = 16, outputs: int = 16, size: int = 8, kernel: int = 3, **more: object) -> ConvWorkload:
    """A blocked convolution of a square image that keeps its size."""
    pad = (kernel // 2,) * 2
    spec = ConvSpec(outputs, inputs, (kernel, kernel), (1, 1), (1, 1), pad, pad, int(str(more.get("groups", 1))))
    return ConvWorkload(spec, 1, (size, size), 8)


def records(folder: Path, shipped: Path | None = None, target: Target = TARGET) -> Records:
    return Records(target, folder, shipped or folder / "none")


def record(workload: Workload, *trials: Trial, best: int = 0, time: float = 1.0, complete: bool = True) -> Record:
    """A record for TARGET by the toolchain that is installed."""
    made = records(Path("nowhere"))
    return Record(made.target, made.toolchain, workload.key, trials, best, 1, complete, time)


def plans_of(*workloads: Workload, kept: Records | None = None) -> Plans:
    """As after lowering a model with these workloads."""
    plans = Plans(MACHINE, kept)
    for workload in workloads:
        plans.choose(workload)
    return plans


class FakeBench:
    """Times a kernel by the name of its schedule: `seconds(name)`, None for one that fails."""

    def __init__(self, seconds: Callable[[str], float | None]) -> None:
        self.seconds = seconds
        self.built: list[str] = []
        self.timed: Counter[str] = Counter()

    def build(self, functions: Sequence[tirx.PrimFunc]) -> list[Path | None]:
        self.built += [name_of(function) for function in functions]
        return [Path("library.so") for _ in functions]

    def time(self, function: tirx.PrimFunc, library: Path) -> float | None:
        name = name_of(function)
        self.timed[name] += 1
        return self.seconds(name)


def name_of(function: tirx.PrimFunc) -> str:
    return str(function.attrs[SCHEDULE])
