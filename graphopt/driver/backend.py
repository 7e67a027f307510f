"""The interface of backends, which turn an optimized model into machine code.

graphopt knows backends only through this protocol and entry points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from graphopt.driver.tuning import Tuned, Tuning
from graphopt.profiling.code import KernelCode
from graphopt.runtime.manifest import Memory, TensorInfo, Weight, Workloads

if TYPE_CHECKING:
    from graphopt.compression.latency import Latencies, LayerSizes
    from graphopt.hardware.target import Target
    from graphopt.ir import Model

Progress = Callable[[str, float], None]
"""Called with the current activity, its details after a colon, and the completed share (0 to 1)."""


@dataclass(frozen=True)
class Unsupported:
    """A node that the backend cannot compile: its label, its operator, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Requirement:
    """Something that compiling for a target needs, whether it is installed, and what to do if it is not."""

    name: str
    met: bool
    remedy: str = ""


@dataclass(frozen=True)
class Built:
    """The result of `build`, in addition to the files `lib.so`, `weights.bin` and `kernels.json` in its folder.

    `inputs` and `outputs` describe the arguments and results of the library's `main` in their order, by the graph's own
    names; the weights follow the inputs. `defaults` lists the inputs that a caller may omit, with their places in
    `weights.bin`. `versions` lists the versions that the manifest records besides graphopt's. `code` has the cost of
    generating each kernel, if kernels are compiled one by one.
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
    """The measured peak of a machine per second: float32 operations, products of bytes, bytes from memory."""

    flops: float
    bytes: float
    products: float

    def or_better(self, other: Peak) -> Peak:
        """Return the higher of two measurements, because the clock frequency changes between them."""
        return Peak(max(self.flops, other.flops), max(self.bytes, other.bytes), max(self.products, other.products))


class Backend(Protocol):
    """A backend. It is instantiated without arguments in the process that uses it."""

    def pipeline(self, target: Target) -> str:
        """Return the pipeline text to run after optimization, specifically for `target`; "" for none."""
        ...

    def unsupported(self, model: Model) -> list[Unsupported]:
        """Return every node that `build` could not compile, without building anything."""
        ...

    def tune(self, model: Model, target: Target, tuning: Tuning, progress: Progress) -> list[Tuned]:
        """Measure which kernels for `model` are fastest on `target`, within `tuning.budget`, for later use by `build`.

        Raises what `build` raises, and InputError or TargetError if nothing can be measured.
        """
        ...

    def build(self, model: Model, target: Target, folder: Path, progress: Progress, tuning: Tuning) -> Built:
        """Write the library, the weights and the list of kernels (see `graphopt.profiling.kernels`) into `folder`.

        The same model, target and tuning records give the same bytes.
        """
        ...

    def latencies(self, target: Target, tuning: Tuning) -> Latencies:
        """Return what is known about the times of layers on `target`; nothing is read or loaded until it is asked."""
        ...

    def measure(
        self,
        layers: Sequence[LayerSizes],
        make: Callable[[LayerSizes, str], Model],
        target: Target,
        tuning: Tuning,
        progress: Progress,
    ) -> int:
        """Measure layers in floats and in integers, in this order, within `tuning.budget`, and keep the results.

        `make` returns the model of a layer in a precision, ready for `build`. Returns how many layers were measured;
        raises what `tune` raises.
        """
        ...

    def bundle(self, target: Target, folder: Path) -> tuple[str, ...]:
        """Copy the libraries that the built code needs on the target into `folder`, and return their file names."""
        ...

    def peak(self, target: Target, threads: int) -> Peak:
        """Measure the peak of this machine with the target's instructions on `threads` threads; takes seconds."""
        ...

    def probe(self, target: Target) -> list[Requirement]:
        """Return what compiling for `target` needs, without loading the compiler."""
        ...


def load(name: str = "tvm") -> Backend:
    """Return a backend by its entry-point name. Raises GraphOptError if no installed package offers it."""
    from graphopt import registry

    found: Backend = registry.backend(name)
    return found
