"""CPUs as a device: fused functions get schedules of kernel families, or generic ones; copies are avoided."""

from __future__ import annotations

import tvm

from graphopt.targets.tvm.cpu.schedule import schedule
from graphopt.targets.tvm.device import fusion
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.relax_passes.concat import place_pieces
from graphopt.targets.tvm.relax_passes.overwrite import note_overwritable, overwrite
from graphopt.targets.tvm.relax_passes.patterns import relax_broadcasts
from graphopt.targets.tvm.relax_passes.residuals import widen_after_reading
from graphopt.targets.tvm.relax_passes.results import copy_constant_results
from graphopt.targets.tvm.tuning.searched import Searched


class Cpu:
    """A CPU, described by a `Machine`; see `Device`."""

    kind = "cpu"

    def __init__(self, machine: Machine, searched: Searched | None = None) -> None:
        """`searched` holds schedules for functions that no kernel family covers."""
        self.machine = machine
        self.searched = searched

    def relax_pipeline(self) -> tvm.transform.Pass:
        """Compute concatenations in place, and mark results that may overwrite an operand."""
        return fusion(
            "graphopt.cpu",
            before=[copy_constant_results, relax_broadcasts, widen_after_reading],
            after=[place_pieces, note_overwritable],
        )

    def schedule(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Schedule every function by the first rule that accepts it; see `cpu.schedule`."""
        return overwrite(schedule(mod, self.machine, self.searched))
