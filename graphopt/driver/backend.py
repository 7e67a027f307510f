"""What turns an optimized model into machine code. graphopt knows backends by this protocol and entry points only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from graphopt.driver.tuning import Tuned, Tuning
from graphopt.profiling.code import KernelCode
from graphopt.runtime.manifest import Memory, TensorInfo, Weight, Workloads

if TYPE_CHECKING:
    from graphopt.hardware.target import Target
    from graphopt.ir import Model

Progress = Callable[[str, float], None]
"""Is told what is being done now, after a colon the details, and how much of the whole is done (0 to 1)."""


@dataclass(frozen=True)
class Unsupported:
    """A node that the backend cannot compile: its label, its operator, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Requirement:
    """Something that compiling for a target needs, whether it is here, and what to do when it is not."""

    name: str
    met: bool
    remedy: str = ""


@dataclass(frozen=True)
class Built:
    """What `build` left in its folder, beside `lib.so`, `weights.bin` and `kernels.json` themselves.

    `inputs` and `outputs` describe the arguments and results of the library's `main` in their order, by the
    graph's own names; the weights follow the inputs. `defaults` says where in `weights.bin` the inputs lie that a
    caller may leave out. `versions` holds what the manifest records beside graphopt's. `code` tells what each kernel of
    the library took to generate, where kernels are compiled one by one.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    weights: tuple[Weight, ...]
    versions: dict[str, str]
    memory: Memory
    workloads: Workloads
    defaults: Mapping[str, Weight] = field(default_factory=dict)
    code: tuple[KernelCode, ...] = ()


@dataclass(frozen=True)
class Peak:
    """The most that the machine does in a second, measured: float32 operations, and bytes read from its memory."""

    flops: float
    bytes: float

    def or_better(self, other: Peak) -> Peak:
        """The higher of two measurements: a clock's frequency changes between them."""
        return Peak(max(self.flops, other.flops), max(self.bytes, other.bytes))


class Backend(Protocol):
    """One instance is made without arguments in the process that uses it."""

    def pipeline(self, target: Target) -> str:
        """What is to be done to a model for `target` alone, after it was optimized: pipeline text, "" for nothing."""
        ...

    def unsupported(self, model: Model) -> list[Unsupported]:
        """Every node that `build` could not compile. Nothing is built for it."""
        ...

    def tune(self, model: Model, target: Target, tuning: Tuning, progress: Progress) -> list[Tuned]:
        """Measure what kernels for `model` are fastest on `target`, within `tuning.budget`, for `build` to look up.

        Raises what `build` raises, and InputError or TargetError where nothing can be measured.
        """
        ...

    def build(self, model: Model, target: Target, folder: Path, progress: Progress, tuning: Tuning) -> Built:
        """Write the library, the weights and the list of kernels (see `graphopt.profiling.kernels`) into `folder`.

        The same model, target and records of measurements give the same bytes.
        """
        ...

    def bundle(self, target: Target, folder: Path) -> tuple[str, ...]:
        """Copy the libraries that the built code needs on the target into `folder`; returns their file names."""
        ...

    def peak(self, target: Target, threads: int) -> Peak:
        """What this machine does at most with the target's instructions on so many threads, measured in seconds."""
        ...

    def probe(self, target: Target) -> list[Requirement]:
        """What compiling for `target` needs, looked up without loading the compiler."""
        ...


def load(name: str = "tvm") -> Backend:
    """A backend by its entry-point name. Raises GraphOptError when no installed package offers it."""
    from graphopt import registry

    found: Backend = registry.backend(name)
    return found
