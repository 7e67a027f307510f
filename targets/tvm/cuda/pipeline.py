"""NVIDIA GPUs as a device: TVM's own rules schedule matmuls, reductions and everything else."""

from __future__ import annotations

import logging
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import dlight

from graphopt.errors import UnsupportedError
from graphopt.targets.tvm.device import fusion

_LOG = logging.getLogger(__name__)

RULES: tuple[dlight.ScheduleRule, ...] = (
    dlight.gpu.Matmul(),
    dlight.gpu.GEMV(),
    dlight.gpu.Reduction(),
    dlight.gpu.GeneralReduction(),
    dlight.gpu.Fallback(),
)
"""TVM's rules, from the most specific to the most general; a rule returns None for other functions."""


class _Fallible(dlight.ScheduleRule):
    """A rule that returns None for a function that it fails on, like those for CPUs.

    TVM's rules assert their assumptions about a function, such as the order in which it reads.
    """

    def __init__(self, rule: dlight.ScheduleRule) -> None:
        self.rule = rule

    def apply(self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool) -> Any:
        """See `ScheduleRule.apply`."""
        try:
            return self.rule.apply(func, target, tunable)
        except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            _LOG.debug("%s does not apply, trying a more general schedule: %s", type(self.rule).__name__, error)
            return None


class Cuda:
    """A GPU, as TVM's target describes it; see `Device`."""

    kind = "cuda"
    machine = None

    def relax_pipeline(self) -> tvm.transform.Pass:
        """Return the fusion that all devices share, and nothing else."""
        return fusion("graphopt.cuda")

    def schedule(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Schedule every function by the first of TVM's rules that accepts it.

        Raises UnsupportedError if a function cannot be distributed over GPU threads.
        """
        scheduled = dlight.ApplyDefaultSchedule(*map(_Fallible, RULES))(mod)
        if serial := sorted(name.name_hint for name, func in scheduled.functions_items() if _is_serial(func)):
            raise UnsupportedError(
                f"these parts of the model cannot run on a GPU yet: {', '.join(serial)}",
                remedy="compile the model for a CPU target",
            )
        return scheduled


def _is_serial(func: tvm.ir.BaseFunc) -> bool:
    """Return whether no rule accepted the function: its loops would run on the host, but access GPU memory."""
    return isinstance(func, tirx.PrimFunc) and not (func.attrs and func.attrs.get("tirx.is_scheduled"))
