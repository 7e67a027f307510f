"""The interface of devices: the differences between kinds of devices, from a lowered module to scheduled functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import tvm
from tvm import relax

from graphopt.targets.tvm.lowering.provenance import fuse_operators
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.relax_passes.numbers import share_but_for_numbers
from graphopt.targets.tvm.relax_passes.order import order_symbols
from graphopt.targets.tvm.tir_passes.work import measure_bytes


class Device(Protocol):
    """A kind of device that code is compiled for: `Target.kind`, and the key of `Family.schedules`."""

    kind: str

    @property
    def machine(self) -> Machine | None:
        """The machine that kernel families plan for; None if the device has no such kernels."""
        ...

    def relax_pipeline(self) -> tvm.transform.Pass:
        """Return the Relax passes from a lowered module to one of fused, unscheduled functions; see `fusion`."""
        ...

    def schedule(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the module with every function scheduled. Raises UnsupportedError if the device cannot run one."""
        ...


def fuse(mod: tvm.IRModule, made_for: tvm.target.Target, device: Device) -> tvm.IRModule:
    """Fuse the operators of a lowered module into functions; `main` keeps its signature."""
    with made_for:
        return device.relax_pipeline()(mod)


def fuse_and_schedule(mod: tvm.IRModule, made_for: tvm.target.Target, device: Device) -> tvm.IRModule:
    """Fuse the operators of a lowered module into functions, and schedule these; `main` keeps its signature.

    Raises UnsupportedError if a function cannot run on the device.
    """
    with made_for:
        return device.schedule(device.relax_pipeline()(mod))


def fusion(
    name: str, before: Sequence[tvm.transform.Pass] = (), after: Sequence[tvm.transform.Pass] = ()
) -> tvm.transform.Pass:
    """Return the operator fusion that all devices share, as a pipeline called `name`.

    `before` are a device's own passes on the operators before fusion, `after` those on the fused functions. The
    computes of kernels carry their fusion pattern and anchor.
    """
    return tvm.transform.Sequential(
        [
            relax.backend.DispatchSampling(),
            relax.backend.DispatchSortScan(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            *before,
            fuse_operators,
            relax.transform.FuseTIR(),
            order_symbols,
            share_but_for_numbers,
            measure_bytes,
            *after,
            relax.transform.DeadCodeElimination(),
            # This recognizes reshapes by their blocks, so it must come before scheduling.
            relax.transform.RewriteDataflowReshape(),
        ],
        name=name,
    )
