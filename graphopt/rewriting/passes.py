"""The interface of passes: `Pass`, `RewritePass` for patterns, and the context in which a pass runs."""

from __future__ import annotations

import dataclasses
import enum
import re
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from graphopt.compression.evaluation import Evaluation
from graphopt.errors import PassError
from graphopt.ir import Graph, Model, Node, Value

from .rewriter import Rewriter

if TYPE_CHECKING:
    from graphopt.compression.latency import Latencies
    from graphopt.compression.statistics import ActivationStatistics
    from graphopt.hardware.target import Target

__all__ = ["Fidelity", "Miss", "Pass", "PassContext", "RewritePass", "Rewriter"]


class Fidelity(enum.IntEnum):
    """How close the results of a pass are to those before it; a pipeline has the fidelity of its least exact pass."""

    EXACT = 0
    """Bit-identical results."""
    FLOAT = 1
    """Only rounding and the order of summation change."""
    LOSSY = 2
    """An approximation, made only on request and within a budget."""


@dataclass(frozen=True)
class Miss:
    """The reason why a pattern does not match. The report counts reasons, except empty ones ("unrelated")."""

    reason: str = ""


@dataclass
class PassContext:
    """The environment of one run of a pass, which also collects its statistics."""

    model: Model
    target: Target | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    """Data and limits for lossy passes: samples, a validation set, the metric and its budget; empty by default."""
    floats: Model | None = None
    """The model before the first lossy pass of the pipeline, for those that mend what lossy passes before them did.
    Values that exist in both models have the same names. It must not be changed."""
    latencies: Latencies | None = None
    """What is known about the times of layers on the target, for passes that choose how these compute."""
    gate: Callable[[Node], bool] | None = None
    """Called before each rewrite; False means that the rewrite must not happen (pass limits, bisection)."""
    progress: Callable[[str, float], None] = lambda what, done: None
    """Called by passes that take long, with the current activity and the completed share (0 to 1)."""
    declined: Callable[[Node, str], None] | None = None
    """Called with each near miss that is counted for a node."""
    counts: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)

    def rewriter(self, graph: Graph, anchor: Node | None = None) -> Rewriter:
        """Return a rewriter for `graph`; new nodes go before `anchor`."""
        return Rewriter(graph, anchor)

    def count(self, name: str, n: int = 1) -> None:
        """Add to a statistic of this run."""
        self.counts[name] += n

    def miss(self, reason: str, node: Node | None = None) -> None:
        """Count a near miss. The report does not name the node: reasons must be self-explanatory."""
        if reason:
            self.misses[reason] += 1
            if node is not None and self.declined is not None:
                self.declined(node, reason)

    def statistics(self, values: Iterable[str], kinds: Sequence[str]) -> ActivationStatistics:
        """Return statistics of activations, by name, over the samples; those that are known are not collected again.

        Raises InputError if there are no samples, or as `graphopt.compression.statistics.collect` does.
        """
        evaluation = self.evaluation
        return evaluation.statistics.of(self.model, evaluation.samples, values, kinds, progress=self.progress)

    def allow(self, node: Node) -> bool:
        """Return whether a rewrite at `node` may happen. Must be called exactly once before each rewrite."""
        return self.gate is None or self.gate(node)

    def array(self, value: Value | None, max_elements: int | None = None) -> np.ndarray | None:
        """Return the contents of a constant; None if it is not constant or has more elements than allowed."""
        constant = None if value is None else value.constant
        if constant is None or (max_elements is not None and constant.size > max_elements):
            return None
        return constant.numpy()


@dataclass(frozen=True)
class Pass(ABC):
    """A transformation of a whole model. A frozen dataclass: its fields are its options, each with a default."""

    name: ClassVar[str]
    fidelity: ClassVar[Fidelity]

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> None:
        """Transform `graph`, the main graph of `context.model`, through rewriters of `context`."""

    @property
    def options(self) -> dict[str, Any]:
        """The options by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().split("\n")[0]

    def __str__(self) -> str:
        """The pass as pipeline text: its name and the options that are not at their default."""
        changed = [
            f"{f.name}={format_option(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"{self.name}{{{' '.join(changed)}}}" if changed else self.name


_WORD = re.compile(r"[A-Za-z0-9_.:/+-]+")


def format_option(value: Any) -> str:
    """Format an option's value as pipeline text."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(format_option, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = _WORD.fullmatch(value)
        looks_like_other = value in ("true", "false", "none") or _is_number(value)
        return value if plain and not looks_like_other else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass that looks for a pattern at nodes of certain operators and rewrites each match.

    Nodes that a rewrite creates, or whose inputs it changes, are visited again.
    """

    ops: ClassVar[tuple[str, ...]]
    """The operators to visit, with their domain if it is not ONNX's own: `("Conv", "com.microsoft::Gelu")`."""

    @abstractmethod
    def match(self, node: Node, context: PassContext) -> Any:
        """Return what `rewrite` needs to know, or a `Miss`. Must not change anything."""

    @abstractmethod
    def rewrite(self, match: Any, rewriter: Rewriter) -> None:
        """Rewrite a match. By default, new nodes go before the matched node."""

    def run(self, graph: Graph, context: PassContext) -> None:
        worklist = deque(node for node in graph.all_nodes() if node.op in self.ops)
        queued = set(worklist)
        misses: dict[Node, str] = {}
        most = 1000 + 20 * sum(len(inner.nodes) for inner in graph.all_graphs())
        while worklist:
            node = worklist.popleft()
            queued.discard(node)
            misses.pop(node, None)
            if node.removed:
                continue
            try:
                match = self.match(node, context)
                if isinstance(match, Miss):
                    misses[node] = match.reason
                    continue
                if not context.allow(node):
                    break
                rewriter = context.rewriter(node.graph, node)
                self.rewrite(match, rewriter)
            except Exception as error:
                error.add_note(f"at {node.label}")
                raise
            context.count("rewritten")
            if context.counts["rewritten"] > most:
                raise PassError(f"it does not terminate: {most} rewrites, the last at {node.label}", where=self.name)
            for touched in rewriter.touched:
                if not touched.removed and touched.op in self.ops and touched not in queued:
                    worklist.append(touched)
                    queued.add(touched)
        for node, reason in misses.items():
            if not node.removed:
                context.miss(reason, node)
