"""NVIDIA GPUs as a device: TVM's own rules schedule matrix products, reductions and everything else."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.s_tir import dlight

from graphopt.errors import UnsupportedError
from graphopt.targets.tvm.device import fusion


class Cuda:
    """A GPU, as TVM's target describes it; see `Device`."""

    kind = "cuda"
    machine = None

    def relax_pipeline(self) -> tvm.transform.Pass:
        """The fusion of all devices and nothing else."""
        return fusion("graphopt.cuda")

    def schedule(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Schedule every function by the first of TVM's rules that takes it.

        Raises UnsupportedError when a function cannot be spread over GPU threads.
        """
        scheduled = dlight.ApplyDefaultSchedule(
            dlight.gpu.Matmul(),
            dlight.gpu.GEMV(),
            dlight.gpu.Reduction(),
            dlight.gpu.GeneralReduction(),
            dlight.gpu.Fallback(),
        )(mod)
        if serial := sorted(name.name_hint for name, func in scheduled.functions_items() if _is_serial(func)):
            raise UnsupportedError(
                f"these parts of the model cannot run on a GPU yet: {', '.join(serial)}",
                remedy="compile the model for a CPU target",
            )
        return scheduled


def _is_serial(func: tvm.ir.BaseFunc) -> bool:
    """Whether no rule took the function: its loops would run on the host, and touch memory of the GPU."""
    return isinstance(func, tirx.PrimFunc) and not (func.attrs and func.attrs.get("tirx.is_scheduled"))
