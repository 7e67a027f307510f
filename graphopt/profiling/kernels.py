"""The kernels of a compiled model: `kernels.json`, the list that profiles are interpreted with.

It has one entry for each call of a kernel, in the order in which the compiled `main` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import ArtifactError
from graphopt.runtime.members import member
from graphopt.util.codec import decode, encode

KERNELS = "kernels.json"


@dataclass(frozen=True)
class Kernel:
    """One call of a compiled function.

    `layers` are the names of the user's nodes that it computes (entirely or in part), `operators` the operators of the
    optimized model's nodes. `flops` counts the arithmetic of these nodes as `graphopt inspect` does, whatever the
    kernel really computes; that of a node that takes several kernels is divided among them. `bytes` is the minimum that
    the kernel must read and write: each tensor once. Either is None if sizes are open. `schedule` names the kernel
    family and its plan.
    """

    function: str
    layers: tuple[str, ...]
    operators: tuple[str, ...]
    flops: int | None
    bytes: int | None
    schedule: str

    @property
    def is_integer(self) -> bool:
        """Whether the kernel multiplies bytes."""
        return any(operator.endswith("Integer") for operator in self.operators)


def write_kernels(kernels: Sequence[Kernel], folder: Path) -> None:
    """Write `kernels.json` into an artifact's folder; the same kernels give the same bytes."""
    rows = [json.dumps(encode(kernel), ensure_ascii=False) for kernel in kernels]
    text = '{"kernels": [\n' + ",\n".join(rows) + "\n]}\n"
    (folder / KERNELS).write_text(text, encoding="utf-8")


def read_kernels(folder: Path) -> list[Kernel]:
    """Return the kernels of an artifact. Raises ArtifactError if the list is missing or damaged."""
    try:
        table = json.loads(member(folder, KERNELS).read_text(encoding="utf-8"))
        return decode(list[Kernel], table["kernels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
        raise ArtifactError(f"{KERNELS} {what}", where=str(folder), remedy="compile the model again") from error
