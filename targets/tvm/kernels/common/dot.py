"""The multiply-add of a register tile: one instruction, or a few, for each vector of sums.

A step of a reduction adds to each sum in a vector the products of `width` elements of data, which are the same for all
lanes, with `width` weights of that lane. Float arithmetic has a width of 1. Bytes are multiplied in groups where a
processor has instructions for it: AVX-512 VNNI and AVX-VNNI (VPDPBUSD) and ARM's dot products (USDOT of I8MM, or SDOT)
multiply four. AVX2, AVX-512BW and SSE2 multiply two 16-bit integers (VPMADDWD): bytes are stored as such for them
(`bytes_for`), or become such twice two at each step. They also multiply two bytes, but keep only 16 bits of the sum
(VPMADDUBSW): that is faster, and used where no weight is larger than 64 in size, so that every sum fits. Thus nothing
saturates, and all give the same sums.

Two bfloat16 are multiplied at once, exactly, and added to sums in float32: by AVX512-BF16 (VDPBF16PS) and ARM (BFDOT),
which treat the smallest numbers (below 1.2e-38) as zero. Without them, both halves of a word become float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.family import Dtypes
from graphopt.targets.tvm.machine import WHOLE_NUMBERS, Machine
from graphopt.targets.tvm.tir_passes import bfloat16_instructions

INTEGER = Dtypes("uint8", "int8", "int32", "int32")
"""Bytes of activations without sign, bytes of weights with one, and exact sums."""

WIDENED = Dtypes("int16", "int16", "int32", "int32")
"""The same bytes as 16-bit integers, for processors that multiply these in pairs."""

SMALL = Dtypes("uint8", "int8", "int32", "int32", small_weight=True)
"""Bytes, with weights of 7 bits, for the same processors: two products fit 16 bits."""

LARGEST_SMALL = 64
"""The largest size of a weight of `SMALL`: 2 * 255 * 64 is less than 2 ** 15."""

INTEGERS = (INTEGER, WIDENED, SMALL)
"""The types of products of bytes."""

BFLOAT16 = Dtypes("bfloat16", "bfloat16", "float32", "float32")
"""Products of bfloat16: exact in float32, in which they are summed."""

_WIDTHS = {"fma": 1, "vpdpbusd": 4, "vpmaddwd": 4, "mull": 1, "usdot": 4, "vpmaddwd-16": 2, "sdot": 4}
_WIDTHS |= {"dpbf16ps": 2, "bfdot": 2, "bf16-fma": 2, "vpmaddubsw": 4}
_VPDPBUSD = {64: "llvm.x86.avx512.vpdpbusd.512", 32: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.128"}
_VPMADDWD = {64: "llvm.x86.avx512.pmaddw.d.512", 32: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.sse2.pmadd.wd"}
_VPMADDUBSW = {
    64: "llvm.x86.avx512.pmaddubs.w.512",
    32: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.ssse3.pmadd.ub.sw.128",
}
_USDOT = "llvm.aarch64.neon.usdot.v4i32.v16i8"
_SDOT = "llvm.aarch64.neon.sdot.v4i32.v16i8"
NAMES = tuple(_WIDTHS)
"""The ways to multiply, by whose positions plans name them."""


Elements = Sequence[Any]
"""A place in memory: a buffer, then the indices of an element."""


def bytes_of(dtype: str) -> int:
    """Return the size of an element of a type whose size is a whole number of bytes."""
    return tvm.DataType(dtype).bits // 8


@dataclass(frozen=True)
class Dot:
    """A way to multiply: `name` is that of its instruction, `lanes` the number of sums in a vector."""

    name: str
    lanes: int

    @property
    def is_bfloat16(self) -> bool:
        """Whether it multiplies pairs of bfloat16."""
        return self.name in ("dpbf16ps", "bfdot", "bf16-fma")

    @property
    def width(self) -> int:
        """The number of products that a step adds to each sum."""
        return _WIDTHS[self.name]

    def accumulators(self, machine: Machine) -> int:
        """Return the number of vectors that a register tile may keep: fewer if products need registers of their own."""
        most, own = machine.accumulators, self.width == 2 or self.name == "vpmaddubsw"
        return most - 2 if own and machine.registers < 32 else most

    def add(self, sums: Any, start: Any, data: Elements, weight: Elements, count: int | None = None) -> Any:
        """Return the sums from `start` on in the buffer `sums`, as a vector, after one step.

        data: the first of `width` adjacent elements, which all lanes multiply; only `count` of them are read if given.
        weight: the first of the step's `lanes * width` weights, or of the int32 words that hold `width` of them each.
        """
        total = sums[_run(start, self.lanes)]
        if self.is_bfloat16:
            return self._add_bfloat16(total, _word(data, 2, count), _load(weight, self.lanes * 2))
        if self.width > 1 and str(weight[0].dtype) == "int32":
            weights = _reinterpret(f"int8x{self.lanes * self.width}", _load(weight, self.lanes))
        else:
            weights = _load(weight, self.lanes * self.width)
        if self.width == 4:
            left = _reinterpret(f"uint8x{self.lanes * 4}", tirx.Broadcast(_word(data, 4, count), self.lanes))
            return self.products(total, left, weights)
        if self.width == 2:
            pairs = _reinterpret(f"int16x{self.lanes * 2}", tirx.Broadcast(_word(data, 2, count), self.lanes))
            return _fenced(total + self._sums_of_two(pairs, weights))
        factor = _load(data, 1).astype(str(sums.dtype))
        return total + self._spread(factor) * weights.astype(str(total.ty.dtype))

    def _add_bfloat16(self, total: Any, word: Any, weights: Any) -> Any:
        """Return a vector of sums after adding the products of the two bfloat16 in `word` with those of each lane."""
        if bfloat16_instructions.has_dot(self.name, self.lanes):
            kind = f"uint16x{self.lanes * 2}"
            data = _reinterpret(kind, tirx.Broadcast(word, self.lanes))
            return bfloat16_instructions.dot(self.name, self.lanes, total, _reinterpret(kind, weights), data)
        kind = str(total.ty.dtype)
        pairs = _reinterpret(kind.replace("float", "int"), weights)
        for half in (_low_half, _high_half):
            total = total + self._spread(_reinterpret("float32", half(word, 1))) * _reinterpret(
                kind, half(pairs, self.lanes)
            )
        return total

    def products(self, total: Any, unsigned: Any, signed: Any) -> Any:
        """Return a vector of sums after adding to each lane the products of four bytes, without and with signs."""
        size = self.lanes * 4
        if self.name == "vpdpbusd":
            return tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", _VPDPBUSD[size], total, unsigned, signed)
        if self.name == "usdot":
            return tirx.call_llvm_pure_intrin("int32x4", _USDOT, total, unsigned, signed)
        if self.name == "sdot":
            return self._signed_dot(total, unsigned, signed)
        if self.name == "vpmaddubsw":
            pairs = tirx.call_llvm_pure_intrin(f"int16x{self.lanes * 2}", _VPMADDUBSW[size], unsigned, signed)
            ones = tirx.Broadcast(tirx.const(1, "int16"), self.lanes * 2)
            return _fenced(total + self._sums_of_two(pairs, ones))
        return total + self._sums_of_four(_reinterpret(f"uint16x{self.lanes * 2}", unsigned), signed)

    def _signed_dot(self, total: Any, unsigned: Any, signed: Any) -> Any:
        """Return the sums plus u * w from products of signed bytes: u * w = (u - 128) * w + 128 * w.

        The second term is that of all rows of a register tile, for which it is computed once.
        """

        def dot(sums: Any, left: Any) -> Any:
            return tirx.call_llvm_pure_intrin("int32x4", _SDOT, sums, _reinterpret("int8x16", left), signed)

        zero, ones, flip, bits = (
            tirx.Broadcast(tirx.const(number, "int32"), 4) for number in (0, 0x01010101, -0x7F7F7F80, 7)
        )
        return dot(total + (dot(zero, ones) << bits), _reinterpret("int32x4", unsigned) ^ flip)

    def _sums_of_two(self, data: Any, weights: Any) -> Any:
        """Return the sums of two products of 16-bit integers in each lane."""
        return tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", _VPMADDWD[self.lanes * 4], data, weights)

    def _sums_of_four(self, data: Any, weights: Any) -> Any:
        """Return the sums of four products of bytes in each lane, two by two as 16-bit integers.

        The bytes of even and of odd places become 16-bit integers by shifts, which run on more ports than shuffles.
        """
        lanes = self.lanes * 2
        eight, low = (tirx.Broadcast(tirx.const(number, "uint16"), lanes) for number in (8, 0xFF))
        signed = _reinterpret(f"int16x{lanes}", weights)
        up = tirx.Broadcast(tirx.const(8, "int16"), lanes)
        return self._sums_of_two(data & low, signed << up >> up) + self._sums_of_two(data >> eight, signed >> up)

    def _spread(self, value: Any) -> Any:
        """Return a vector of equal elements."""
        return tirx.Broadcast(value, self.lanes) if self.lanes > 1 else value


def dot_for(dtypes: Dtypes, lanes: int, machine: Machine) -> Dot:
    """Return the fastest way in which a machine multiplies these types, with `lanes` sums in a vector."""
    size, instructions = lanes * 4, machine.instructions
    if dtypes == BFLOAT16:
        name = "dpbf16ps" if "sse2" in instructions else "bfdot"
        has_dot = "bf16" in instructions and bfloat16_instructions.has_dot(name, lanes)
        return Dot(name if has_dot else "bf16-fma", lanes)
    if dtypes not in INTEGERS:
        return Dot("fma", lanes)
    if dtypes == WIDENED:
        return Dot("vpmaddwd-16" if WHOLE_NUMBERS.get(size) in instructions else "mull", lanes)
    if dtypes == SMALL and WHOLE_NUMBERS.get(size) in instructions and "ssse3" in instructions:
        return Dot("vpmaddubsw", lanes)
    if size in _VPDPBUSD and ("vnni" in instructions or ("avx-vnni" in instructions and size <= 32)):
        return Dot("vpdpbusd", lanes)
    if size == 16 and "i8mm" in instructions:
        return Dot("usdot", lanes)
    if size == 16 and "dotprod" in instructions:
        return Dot("sdot", lanes)
    if WHOLE_NUMBERS.get(size) in instructions:
        return Dot("vpmaddwd", lanes)
    return Dot("mull", lanes)


def bytes_for(machine: Machine | None, small_weight: bool = False) -> Dtypes:
    """Return the types in which a machine multiplies bytes fastest: as they are, or stored as 16-bit integers.

    small_weight: as in `Dtypes`.
    """
    if machine is None or {"vnni", "avx-vnni"} & machine.instructions:
        return INTEGER
    if WHOLE_NUMBERS.get(machine.vector_bytes) not in machine.instructions:
        return INTEGER
    return SMALL if small_weight and "ssse3" in machine.instructions else WIDENED


def _run(first: Any, count: int) -> Any:
    return tirx.Ramp(long(first), long(1), count) if count > 1 else long(first)


def _load(elements: Elements, count: int) -> Any:
    buffer, *place = elements
    return buffer[(*place[:-1], _run(place[-1], count))]


def _word(data: Elements, width: int, count: int | None) -> Any:
    """Return 32 bits of adjacent elements as one integer; those from `count` on, maybe outside the buffer, as zeros."""
    if count is None or count == width:
        return _reinterpret("int32", _load(data, width))
    buffer, *place = data
    word: Any = tirx.const(0, "int32")
    for part in range(count):
        element = buffer[(*place[:-1], place[-1] + part)]
        bits = _reinterpret("uint16", element) if str(element.ty.dtype) == "bfloat16" else element
        word = word | bits.astype("int32") << tirx.const(32 // width * part, "int32")
    return word


def _low_half(words: Any, lanes: int) -> Any:
    """Return the bits of the float32 that equals the bfloat16 in the lower half of each word."""
    return words << _repeated(16, lanes)


def _high_half(words: Any, lanes: int) -> Any:
    """Return the bits of the float32 that equals the bfloat16 in the upper half of each word."""
    return words & _repeated(-0x10000, lanes)


def _repeated(number: int, lanes: int) -> Any:
    value = tirx.const(number, "int32")
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def _fenced(sums: Any) -> Any:
    """Return sums that LLVM computes in this order.

    It would add products of different steps first, and spill the sums of a register tile for that.
    """
    kind = str(sums.ty.dtype)
    floats = kind.replace("int", "float")
    return _reinterpret(kind, tirx.call_llvm_pure_intrin(floats, "llvm.arithmetic.fence", _reinterpret(floats, sums)))


def _reinterpret(kind: str, value: Any) -> Any:
    return tirx.reinterpret(kind, value)
