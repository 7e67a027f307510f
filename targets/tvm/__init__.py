"""The backend that compiles with Apache TVM; the only package that imports TVM.

TVM is imported when something is compiled, not with this package, so that querying the needs of a target is fast.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.driver.backend import Built, Peak, Progress, Requirement, Unsupported
from graphopt.driver.tuning import Tuned, Tuning
from graphopt.profiling.kernels import write_kernels
from graphopt.runtime.manifest import LIBRARY, WEIGHTS, TensorInfo, Workloads
from graphopt.targets.tvm.probe import requirements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from graphopt.compression.latency import Latencies, LayerSizes
    from graphopt.hardware.target import Target
    from graphopt.ir import Model
    from graphopt.targets.tvm.device import Device
    from graphopt.targets.tvm.kernels.plans import Plans


PIPELINES = {"cpu": "layout", "cuda": ""}
"""The graph pipeline before lowering, by kind of device: the kernels for CPUs work on blocked activations."""


class TvmBackend:
    """Lowers a model to Relax, fuses and schedules it, and builds one library with the virtual machine's code."""

    def pipeline(self, target: Target) -> str:
        """The named pipeline of graph passes for the target's kind of device."""
        return PIPELINES[target.kind]

    def unsupported(self, model: Model) -> list[Unsupported]:
        """Every node that cannot be lowered, with the reason."""
        from graphopt.targets.tvm.lowering.lower import unsupported

        return [Unsupported(item.label, item.op, item.reason) for item in unsupported(model)]

    def tune(self, model: Model, target: Target, tuning: Tuning, progress: Progress) -> list[Tuned]:
        """Measure candidates for the kernels of `model`, and save the results as records.

        Raises TargetError for a target that cannot be measured, InputError for a remote that cannot be reached.
        """
        from graphopt.targets.tvm.tuning.tune import tune

        return tune(model, target, tuning, progress)

    def latencies(self, target: Target, tuning: Tuning) -> Latencies:
        """The times of layers in tuning records, or else by closed forms."""
        from graphopt.targets.tvm.latency import RecordedLatencies

        return RecordedLatencies(target, _folder(tuning), tuning.use_records)

    def measure(
        self,
        layers: Sequence[LayerSizes],
        make: Callable[[LayerSizes, str], Model],
        target: Target,
        tuning: Tuning,
        progress: Progress,
    ) -> int:
        """Measure layers in floats and in integers, and save the results as records. Raises what `tune` raises."""
        from graphopt.targets.tvm.tuning.layers import measure_layers

        return measure_layers(layers, make, target, tuning, progress)

    def build(self, model: Model, target: Target, folder: Path, progress: Progress, tuning: Tuning) -> Built:
        """Write `lib.so`, `weights.bin` and `kernels.json` into `folder`.

        Raises UnsupportedError, which lists all nodes that cannot be lowered, and CompileError if a tool fails.
        """
        from graphopt.targets.tvm.codegen import build as builder
        from graphopt.targets.tvm.device import fuse_and_schedule
        from graphopt.targets.tvm.lowering.lower import lower
        from graphopt.targets.tvm.lowering.provenance import kernels, layers_by_function

        progress("lowering", 0.0)
        device = _device(target, tuning)
        plans = _plans(device, target, tuning)
        lowered = lower(model, device.machine, plans)
        progress("scheduling", 0.2)
        scheduled = fuse_and_schedule(lowered.mod, builder.tvm_target(target), device)
        calls = kernels(scheduled, lowered.layers)
        write_kernels(calls, folder)
        progress("generating code", 0.5)
        library = folder / LIBRARY
        memory, codes = builder.build_library(scheduled, target, library, progress, layers_by_function(calls))
        progress("writing weights", 0.95)
        stored = [operand for _, operand in (*lowered.params, *lowered.defaults)]
        weights = builder.write_weights(stored, folder / WEIGHTS)
        defaults = {name: place for (name, _), place in zip(lowered.defaults, weights[len(lowered.params) :])}
        return Built(
            inputs=tuple(TensorInfo(i.name, i.dtype, tuple(i.shape)) for i in lowered.inputs),
            outputs=tuple(TensorInfo(o.name, o.dtype, tuple(o.shape)) for o in lowered.outputs),
            weights=weights[: len(lowered.params)],
            defaults=defaults,
            versions={name: version(name) for name in ("apache-tvm", "apache-tvm-ffi", "ziglang")},
            memory=memory,
            workloads=Workloads(len(plans.workloads), len(plans.tuned)),
            code=codes,
        )

    def bundle(self, target: Target, folder: Path) -> tuple[str, ...]:
        """Copy TVM's runtime libraries for `target` into `folder`. Raises CompileError."""
        from graphopt.targets.tvm.codegen.bundle import bundle

        return bundle(target, folder)

    def peak(self, target: Target, threads: int) -> Peak:
        """Measure the peak of this machine with the instructions of the target, which must be a CPU."""
        from graphopt.targets.tvm.tuning.peak import measure_peak

        return measure_peak(target, threads)

    def probe(self, target: Target) -> list[Requirement]:
        """Return what compiling for `target` needs and whether it is installed, without importing TVM."""
        return requirements(target)


def _device(target: Target, tuning: Tuning) -> Device:
    """Return the device of a target: the only place where its kind decides how code is generated."""
    from graphopt.targets.tvm.cpu.pipeline import Cpu
    from graphopt.targets.tvm.cuda.pipeline import Cuda
    from graphopt.targets.tvm.machine import machine_for
    from graphopt.targets.tvm.tuning.searched import Searched

    if target.kind == "cuda":
        return Cuda()
    searched = Searched(target, _folder(tuning)) if tuning.use_records else None
    return Cpu(machine_for(target), searched)


def _folder(tuning: Tuning) -> Path | None:
    return None if tuning.records is None else Path(tuning.records)


def _plans(device: Device, target: Target, tuning: Tuning) -> Plans:
    """Return the plans for the device's kernels, with records if it has kernel families."""
    from graphopt.targets.tvm.kernels.plans import Plans
    from graphopt.targets.tvm.tuning.records import Records

    use_records = tuning.use_records and device.machine is not None
    return Plans(
        device.machine, Records(target, _folder(tuning)) if use_records else None, device.kind, compact=tuning.compact
    )
