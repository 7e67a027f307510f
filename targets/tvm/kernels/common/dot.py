"""The multiply-add of a register tile: one instruction, or a few, for each vector of sums.

A step of a reduction adds to each sum in a vector the products of `width` elements of data, which are the same for all
lanes, with `width` weights of that lane. Float arithmetic has a width of 1. Bytes are multiplied in groups where a
processor has instructions for it: four by AVX-512 VNNI and AVX-VNNI (VPDPBUSD), two, as 16-bit integers, by AVX2,
AVX-512BW and SSE2 (VPMADDWD). None of these saturates, so that all give the same sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.family import Dtypes
from graphopt.targets.tvm.machine import Machine

INTEGER = Dtypes("uint8", "int8", "int32", "int32")
"""Bytes of activations without sign, bytes of weights with one, and exact sums."""

_WIDTHS = {"fma": 1, "vpdpbusd": 4, "vpmaddwd": 2, "mull": 1}
_VPDPBUSD = {64: "llvm.x86.avx512.vpdpbusd.512", 32: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.128"}
_VPMADDWD = {64: "llvm.x86.avx512.pmaddw.d.512", 32: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.sse2.pmadd.wd"}
_VECTORS = {64: "avx512bw", 32: "avx2", 16: "sse2"}
NAMES = tuple(_WIDTHS)
"""The ways to multiply, by whose positions plans name them."""


def bytes_of(dtype: str) -> int:
    """Return the size of an element of a type whose size is a whole number of bytes."""
    return tvm.DataType(dtype).bits // 8


@dataclass(frozen=True)
class Dot:
    """A way to multiply: `name` is that of its instruction, `lanes` the number of sums in a vector."""

    name: str
    lanes: int

    @property
    def width(self) -> int:
        """The number of products that a step adds to each sum."""
        return _WIDTHS[self.name]

    def add(self, sums: Any, start: Any, data: list[Any], weight: Any, first: Any) -> Any:
        """Return the sums from `start` on in the buffer `sums`, as a vector, after one step.

        data: the elements that all lanes multiply, adjacent in memory from `data[-1]` on: the buffer, then its indices.
        weight: the buffer of weights, flat; `first`: the place of the step's `lanes * width` weights in it.
        """
        total = sums[_run(start, self.lanes)]
        weights = weight[_run(first, self.lanes * self.width)]
        buffer, *place = data
        if self.name == "vpdpbusd":
            bytes_ = self.lanes * 4
            quads = tirx.Broadcast(_reinterpret("int32", buffer[(*place[:-1], _run(place[-1], 4))]), self.lanes)
            call = _VPDPBUSD[bytes_]
            kinds = [_reinterpret(f"uint8x{bytes_}", quads), weights]
            return tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", call, total, *kinds)
        if self.name == "vpmaddwd":
            pair = tirx.Broadcast(_reinterpret("int16", buffer[(*place[:-1], _run(place[-1], 2))]), self.lanes)
            wide = f"int16x{self.lanes * 2}"
            left = _reinterpret(f"uint8x{self.lanes * 2}", pair).astype(wide)
            kind = f"int32x{self.lanes}"
            return total + tirx.call_llvm_pure_intrin(kind, _VPMADDWD[self.lanes * 4], left, weights.astype(wide))
        wide = str(total.ty.dtype)
        factor = buffer[tuple(place)].astype(str(sums.dtype))
        return total + tirx.Broadcast(factor, self.lanes) * weights.astype(wide)


def dot_for(dtypes: Dtypes, lanes: int, machine: Machine) -> Dot:
    """Return the fastest way in which a machine multiplies these types, with `lanes` sums in a vector."""
    if dtypes != INTEGER:
        return Dot("fma", lanes)
    size, instructions = lanes * 4, machine.instructions
    if size in _VPDPBUSD and ("vnni" in instructions or ("avx-vnni" in instructions and size <= 32)):
        return Dot("vpdpbusd", lanes)
    if _VECTORS.get(size) in instructions:
        return Dot("vpmaddwd", lanes)
    return Dot("mull", lanes)


def _run(first: Any, count: int) -> Any:
    return tirx.Ramp(long(first), long(1), count) if count > 1 else long(first)


def _reinterpret(kind: str, value: Any) -> Any:
    return tirx.reinterpret(kind, value)
