"""Where floats are faster than integers: what decides for each product of a quantized model on which it computes."""

from __future__ import annotations

from graphopt.compression.latency import Latencies, LayerSizes, choose
from graphopt.ir import Node

ESTIMATED = "floats are faster on this machine"
MEASURED = "floats are faster, as measured"
"""The reasons that reports give."""


def why_floats(node: Node, latencies: Latencies | None) -> str:
    """Return why a convolution or matmul is to compute on floats; "" where integers are faster, or nothing is known."""
    sizes = None if latencies is None else LayerSizes.of(node)
    if latencies is None or sizes is None:
        return ""
    choice = choose(latencies, sizes)
    return "" if choice.integers_win else MEASURED if choice.measured else ESTIMATED
