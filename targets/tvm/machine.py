"""The properties of a processor that schedules depend on, in one small record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import tvm
from tvm.target import codegen

from graphopt.hardware.target import Target

INSTRUCTIONS = {
    "sse2": "sse2",
    "ssse3": "ssse3",
    "avx2": "avx2",
    "avx512bw": "avx512bw",
    "avx512vnni": "vnni",
    "avxvnni": "avx-vnni",
    "avx512bf16": "bf16",
    "bf16": "bf16",
    "avx512fp16": "fp16",
    "fullfp16": "fp16",
    "dotprod": "dotprod",
    "i8mm": "i8mm",
}
"""LLVM's features -> the instruction sets of a `Machine`: dot products of four bytes in each 32-bit lane ("vnni" in
512-bit and shorter vectors, "avx-vnni" in 256, "dotprod" on ARM), of 2x8 by 8x2 bytes ("i8mm"), arithmetic in half
precision ("fp16") and sums of products of bfloat16 ("bf16"), of small integers in vectors of 128 ("sse2"), 256
("avx2") and 512 bits ("avx512bw")."""
WHOLE_NUMBERS = {16: "sse2", 32: "avx2", 64: "avx512bw"}
"""The bytes of a vector of an x86 processor -> what it needs for arithmetic on small integers in it."""


@dataclass(frozen=True)
class Machine:
    """A processor as kernel templates see it.

    `vector_bytes` is the width of one SIMD register, `registers` their number, `cores` the number of cores that the
    target names (1 if none: only used to decide when several threads pay). `l1_bytes` and `l2_bytes` are the data
    caches of one core. `instructions` are names of `INSTRUCTIONS`, which some kernels need in addition to plain vector
    arithmetic.
    """

    vector_bytes: int
    registers: int
    cores: int
    l1_bytes: int = 32 << 10
    l2_bytes: int = 256 << 10
    instructions: frozenset[str] = frozenset()

    def lanes(self, dtype: str) -> int:
        """Return the elements of `dtype` (TVM's name: "float32", "int8", "bool"...) per vector register, at least 1."""
        bits = max(8, tvm.DataType(dtype).bits)
        return max(1, self.vector_bytes * 8 // bits)

    @property
    def accumulators(self) -> int:
        """The number of vectors that a register tile may keep; the rest are for operands.

        Half of 32 registers: at 28 of 32 LLVM spills, and 14 to 20 perform equally. With 16 registers, the operands
        need fewer than half of them.
        """
        return 16 if self.registers >= 32 else 12


def machine_for(target: Target) -> Machine:
    """Return the `Machine` of a described CPU target."""
    features = (*target.features, *(["sse2"] if target.machine == "x86_64" else []))
    return Machine(
        target.vector_bits // 8,
        target.vector_registers,
        target.cores,
        target.l1_kib << 10,
        target.l2_kib << 10,
        frozenset(INSTRUCTIONS[feature] for feature in features if feature in INSTRUCTIONS),
    )


def machine_of(target: tvm.target.Target) -> Machine:
    """Return the `Machine` of an LLVM target (for a GPU target: of its host), which does not describe caches.

    TVM's own `llvm_get_vector_width` returns 512 bits for any x86, so the features decide.
    """
    if target.kind.name != "llvm" and target.host is not None:
        target = target.host
    return _machine_of_text(str(target))


@lru_cache(maxsize=64)
def _machine_of_text(text: str) -> Machine:
    target = tvm.target.Target(text)
    cores = int(target.attrs.get("num-cores") or 1)

    def has(feature: str) -> bool:
        return bool(codegen.target_has_features(feature, target))

    triple = str(target.attrs.get("mtriple") or "")
    instructions = frozenset(name for feature, name in INSTRUCTIONS.items() if has(feature))
    if has("avx512f"):
        return Machine(64, 32, cores, instructions=instructions)
    if has("avx") or has("avx2"):
        return Machine(32, 16, cores, instructions=instructions)
    if triple.startswith(("aarch64", "arm64")):
        return Machine(16, 32, cores, instructions=instructions)
    return Machine(16, 16, cores, instructions=instructions)
