"""Turns Relax operators into graphopt's kernels where `LegalizeOps` would take TVM's general compute definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import ir, relax

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec
from graphopt.targets.tvm.kernels.conv.compute import call_conv, pack_weight, pack_weight_te
from graphopt.targets.tvm.kernels.conv.plan import plan_conv
from graphopt.targets.tvm.kernels.matmul.compute import call_matmul, call_matmul_packed, pack_matrix
from graphopt.targets.tvm.kernels.matmul.plan import MatmulPlan, MatmulWorkload
from graphopt.targets.tvm.machine import Machine

Legalizer = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def legalizers(machine: Machine) -> dict[str, Legalizer]:
    """For `relax.transform.LegalizeOps(customize_legalize_map=...)`."""
    return {
        "relax.nn.conv1d": lambda builder, call: _conv(builder, call, machine, ("NCW", "OIW")),
        "relax.nn.conv2d": lambda builder, call: _conv(builder, call, machine, ("NCHW", "OIHW")),
        "relax.nn.conv3d": lambda builder, call: _conv(builder, call, machine, ("NCDHW", "OIDHW")),
        "relax.matmul": lambda builder, call: _matmul(builder, call, machine),
    }


def _default(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """What TVM itself makes of the call."""
    return ir.Op.get(call.op.name).get_attr("FLegalize")(builder, call)


def _static(shape: Sequence[Any]) -> list[int | None]:
    return [facts.extent(size) for size in shape]


def _conv(builder: relax.BlockBuilder, call: relax.Call, machine: Machine, layouts: tuple[str, str]) -> relax.Expr:
    attrs, (data, weight) = call.attrs, call.args
    shape, weight_shape = _static(data.ty.shape), _static(weight.ty.shape)
    plain = (str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout)) == (*layouts, layouts[0])
    same = str(call.ty.dtype) == str(data.ty.dtype) == str(weight.ty.dtype)
    if not plain or not same or any(size is None for size in weight_shape):
        return _default(builder, call)
    rank = len(shape) - 2
    pads = [int(p) for p in attrs.padding]
    spec = ConvSpec(
        out_channels=weight_shape[0] or 0,
        in_channels=(weight_shape[1] or 0) * int(attrs.groups),
        kernel=tuple(size or 0 for size in weight_shape[2:]),
        strides=tuple(int(s) for s in attrs.strides),
        dilations=tuple(int(d) for d in attrs.dilation),
        pads_begin=tuple(pads[:rank]),
        pads_end=tuple(pads[rank:]),
        groups=int(attrs.groups),
    )
    plan = plan_conv(spec, shape, str(data.ty.dtype), machine)
    packed = (
        relax.const(pack_weight(weight.value.numpy(), plan))
        if isinstance(weight, ir.GenericConst)
        else builder.emit_te(lambda w: pack_weight_te(w, plan), weight)
    )
    return call_conv(builder, data, packed, plan)


def _matmul(builder: relax.BlockBuilder, call: relax.Call, machine: Machine) -> relax.Expr:
    left, right = call.args
    shape, other = _static(left.ty.shape), _static(right.ty.shape)
    same = str(call.ty.dtype) == str(left.ty.dtype) == str(right.ty.dtype)
    if len(shape) < 2 or len(other) < 2 or not same:
        return _default(builder, call)
    packed = isinstance(right, ir.GenericConst) and len(other) == 2 and shape[-1] is not None
    work = MatmulWorkload(shape[-2], other[-1], shape[-1], str(left.ty.dtype), packed)
    plan = MatmulPlan.default(work, machine)
    if packed:
        constant = relax.const(pack_matrix(right.value.numpy(), plan))
        return call_matmul_packed(builder, left, constant, plan)
    return call_matmul(builder, left, right, plan)
