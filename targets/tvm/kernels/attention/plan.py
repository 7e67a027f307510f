"""The plan of attention: the blocks of queries and keys that are processed together."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.targets.tvm.machine import Machine


@dataclass(frozen=True)
class AttentionPlan:
    """`lanes` queries in a vector and `vectors` of them in a block; `rows` by `vectors` sums stay in registers; keys
    come `keys` at a time."""

    lanes: int
    vectors: int
    rows: int
    keys: int

    @property
    def queries(self) -> int:
        """Queries in a block."""
        return self.lanes * self.vectors

    @staticmethod
    def default(machine: Machine) -> AttentionPlan:
        """Return a tile that leaves registers for operands, and scores that fill half of the L1 cache."""
        lanes = machine.lanes("float32")
        count = 2 if lanes > 4 else 4
        rows = 8 if machine.registers >= 32 and count == 2 else 4 if machine.registers >= 32 else 6 if count == 2 else 2
        keys = max(64, machine.l1_bytes // 2 // (4 * lanes * count) // 64 * 64)
        return AttentionPlan(lanes, count, rows, keys)
