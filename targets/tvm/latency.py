"""What is known about the times of layers on a target: tuning records, or else a closed form.

Records are read without loading TVM. The closed form asks the kernel families, for which TVM is loaded.
"""

from __future__ import annotations

import functools
from pathlib import Path

from graphopt.compression.latency import INTEGERS, LayerSizes
from graphopt.hardware.target import Target
from graphopt.targets.tvm.kernels.versions import VERSIONS
from graphopt.targets.tvm.tuning.records import Records

OTHER = "other"
"""The family, in records, of a layer that no kernel family computes."""

_CLOCK = 3e9
"""The assumed cycles per second: only ratios of estimates matter."""
_FAST = 4.0
"""How many times as many products an instruction for dot products of bytes makes as one for floats."""
_PLAIN = 1.25
"""The same for x86 instructions on 16-bit integers, which keep sums exact without dot products.

This is the middle of what 44 layers took on AVX2, 0.94 (16 products for each result) to 1.9 (one row).
"""
_DEPTHWISE = 0.5
"""The same where each weight is multiplied by its own data, for which these have no use: measured 0.43 to 0.6."""
_IMAGE = 0.75
"""The same for images, whose few channels are read in blocks of four: measured 0.47 to 0.78."""
_FEW = 4
"""The most channels of an image."""


def key_of(sizes: LayerSizes, precision: str) -> str:
    """Return the key of a layer's record in one precision."""
    return f"{sizes.key} {precision}"


class RecordedLatencies:
    """The times of layers on a target; see `graphopt.compression.latency.Latencies`."""

    def __init__(self, target: Target, folder: Path | None = None, use_records: bool = True) -> None:
        """`folder` holds the user's records; `use_records=False`: only estimates are known."""
        self.target, self._folder, self._use_records = target, folder, use_records

    @functools.cached_property
    def records(self) -> Records | None:
        """The records, read when they are needed first."""
        return Records(self.target, self._folder) if self._use_records else None

    def measured(self, sizes: LayerSizes, precision: str) -> float | None:
        """Return the seconds in the record of a layer, unless other kernels were measured than there are now."""
        record = None if self.records is None else self.records.find(key_of(sizes, precision))
        if record is None:
            return None
        winner = record.winner
        return winner.seconds if VERSIONS.get(winner.family, 1) == winner.version else None

    def estimated(self, sizes: LayerSizes, precision: str) -> float:
        """Return the seconds of a layer by its products, as many at a time as the target's instructions make."""
        products = sizes.products
        lanes = max(1, self.target.vector_bits // 32)
        seconds = products / (2 * lanes * _CLOCK)
        if precision == INTEGERS:
            return seconds / _speedup(sizes, self.target)
        return seconds * self._saved(sizes)

    def _saved(self, sizes: LayerSizes) -> float:
        """Return the share of a direct convolution's time that the best algorithm for floats takes.

        It is asked for where integers are not much faster anyway.
        """
        if not sizes.is_conv or sizes.weight[2:] != (3, 3) or _speedup(sizes, self.target) >= _FAST:
            return 1.0
        from graphopt.targets.tvm.tuning.estimates import winograd_share

        return winograd_share(sizes, self.target)


def _speedup(sizes: LayerSizes, target: Target) -> float:
    """Return how many products of bytes are made in the time of one of floats."""
    if target.kind != "cpu" or target.machine != "x86_64" or target.dot_product:
        return _FAST
    if not sizes.is_conv or not (sizes.is_depthwise or sizes.data[1] <= _FEW):
        return _PLAIN
    return _DEPTHWISE if sizes.is_depthwise else _IMAGE
