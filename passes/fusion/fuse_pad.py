"""Fusion of constant padding into the convolution or pooling after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.ir.facts import Trait, facts_of
from graphopt.passes.matching.match import NOTHING, axis_of, below_opset, integers, produced_by
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.values import number

CONSUMERS = ("Conv", "AveragePool", "MaxPool")


@dataclass(frozen=True)
class _Match:
    pad: Node
    consumer: Node
    pads: tuple[int, ...]


@dataclass(frozen=True)
class FusePad(RewritePass):
    """Fold a constant Pad of the spatial axes into the pads of the Conv, AveragePool or MaxPool after it.

    Zeros are folded into Conv, and into AveragePool if it then counts the padding; into MaxPool, values that can never
    win.
    """

    name: ClassVar[str] = "fuse-pad"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Pad",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        consumer = node.output.sole_user
        if consumer is None or consumer.op not in CONSUMERS or consumer.inputs[0] is not node.output:
            used = any(user.op in CONSUMERS for user in node.output.users)
            return Miss("the padded data is used elsewhere too") if used else NOTHING
        if (old := below_opset(context)) is not None:
            return old
        if node.attr("mode", "constant") != "constant":
            return Miss(f"padding mode {node.attr('mode')}")
        spatial = _spatial_pads(node)
        if isinstance(spatial, Miss):
            return spatial
        if consumer.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return Miss("the consumer pads by auto_pad")
        fits = _CHECKS[consumer.op](node, consumer)
        if fits is not None:
            return fits
        own = tuple(consumer.attr("pads", ())) or (0,) * len(spatial)
        pads = tuple(a + b for a, b in zip(spatial, own))
        if consumer.op != "Conv" and _exceeds_kernel(consumer, pads):
            return Miss("padding as wide as the pooling window")
        if consumer.attr("ceil_mode", 0):
            # Windows that begin in the padding are dropped, but those that begin in padded data are not.
            return Miss("the pooling rounds its size up, which counts padding otherwise than data")
        return _Match(node, consumer, pads)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        pad, consumer = match.pad, match.consumer
        attributes = {k: v for k, v in consumer.attributes.items() if k != "auto_pad"}
        changed: dict[str, object] = {**attributes, "pads": match.pads}
        if consumer.op == "AveragePool":
            changed["count_include_pad"] = 1
        new = rewriter.op(
            consumer.op_type,
            [pad.inputs[0], *consumer.inputs[1:]],
            changed,
            types=[consumer.output.type],
            origin=[pad, consumer],
            name=consumer.name,
            before=consumer,
        )
        rewriter.replace(consumer, [new.output])


def _spatial_pads(pad: Node) -> tuple[int, ...] | Miss:
    """Return the pads of axes 2 and up, begins then ends; a miss if another axis is padded, or any is cropped."""
    data, amounts = pad.inputs[0], integers(pad.input(1))
    if amounts is None:
        return Miss("the amount of padding is not constant")
    axes = integers(pad.input(3))
    if pad.input(3) is not None and axes is None:
        return Miss("the padded axes are not constant")
    rank = len(amounts) // 2 if axes is None else (None if data is None else data.rank)
    if rank is None:
        return Miss("the rank of the padded data is not known")
    begins, ends = [0] * rank, [0] * rank
    for position, axis in enumerate(range(rank) if axes is None else axes):
        resolved = axis_of(axis, rank)
        assert resolved is not None
        begins[resolved], ends[resolved] = amounts[position], amounts[position + len(amounts) // 2]
    if any((*begins[:2], *ends[:2])):
        return Miss("the batch or channel axis is padded")
    if any(amount < 0 for amount in (*begins, *ends)):
        return Miss("the Pad crops")
    return (*begins[2:], *ends[2:])


def _pad_value(pad: Node) -> float | None:
    return 0.0 if pad.input(2) is None else number(pad.input(2))


def _fits_conv(pad: Node, conv: Node) -> Miss | None:
    return None if _pad_value(pad) == 0 else Miss("padded with something else than a constant zero")


def _fits_average(pad: Node, pool: Node) -> Miss | None:
    if _pad_value(pad) != 0:
        return Miss("padded with something else than a constant zero")
    if any(pool.attr("pads", ())) and not pool.attr("count_include_pad", 0):
        return Miss("the pooling does not count its own padding")
    return None


def _fits_max(pad: Node, pool: Node) -> Miss | None:
    if len(pool.outputs) > 1 and pool.outputs[1].name:
        return Miss("the pooling gives out indices")
    value, data = _pad_value(pad), pad.inputs[0]
    if value is None or data is None or data.dtype is None:
        return Miss("the padding's value is not constant")
    if value <= _lowest(data.dtype):
        return None
    if value != 0 or not _never_negative(data):
        return Miss("padded with a number that can win over the data")
    # A zero can stand for "nothing" only if each window also contains a real element, and pads of the pooling itself
    # would not have been zeros.
    if any(d != 1 for d in pool.attr("dilations", ())) or any(pool.attr("pads", ())):
        return Miss("zeros before a max-pooling whose windows may miss the data")
    return None


_CHECKS = {"Conv": _fits_conv, "AveragePool": _fits_average, "MaxPool": _fits_max}


def _lowest(dtype: DType) -> float:
    """Return the value that MaxPool uses for its own padding; anything below it is equivalent."""
    return float(np.iinfo(dtype.numpy).min) if dtype.is_integer else -np.inf


def _never_negative(value: Value) -> bool:
    node = value.producer
    if node is None:
        return False
    if Trait.NONNEGATIVE in facts_of(node.op).traits and (
        node.op != "Abs" or (value.dtype is not None and value.dtype.is_float)
    ):
        return True  # the absolute value of the smallest integer is that same integer
    lowest = number(node.input(1)) if produced_by(value, "Clip") is not None else None
    return lowest is not None and lowest >= 0


def _exceeds_kernel(pool: Node, pads: tuple[int, ...]) -> bool:
    """Return whether a window could lie entirely in the padding, which runtimes reject."""
    kernel = pool.attr("kernel_shape", ())
    return any(pad >= size for pad, size in zip(pads, (*kernel, *kernel)))
