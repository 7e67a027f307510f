"""Immediate execution of a lowered module in this process: for checking the lowering, not for deployment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from graphopt.targets.tvm.lowering.lower import Lowered
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE


class Runner:
    """A lowered module, compiled for this machine without any scheduling."""

    def __init__(self, lowered: Lowered) -> None:
        target = tvm.target.Target({"kind": "llvm", "num-cores": 1})
        with target:
            executable = tvm.compile(lowered.mod, target, tir_pipeline=PIPELINE)
        self._machine = relax.VirtualMachine(executable, tvm.cpu())
        self._params = [tvm.runtime.tensor(np.asarray(operand.array, order="C")) for _, operand in lowered.params]

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for inputs in the order of `Lowered.inputs`. Raises what TVM raises for wrong shapes."""
        arguments = [tvm.runtime.tensor(np.asarray(array, order="C")) for array in inputs]
        result = self._machine["main"](*arguments, *self._params)
        outputs = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return [output.numpy() for output in outputs]
