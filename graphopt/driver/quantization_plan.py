"""The pipeline of `quantize`, divided before the pass that quantizes: what comes before runs once, the rest often."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.errors import GraphOptError, InputError, PipelineError
from graphopt.rewriting.grammar import Named, PassStep
from graphopt.rewriting.grammar import Step as GrammarStep
from graphopt.rewriting.passes import Fidelity, Pass
from graphopt.rewriting.pipeline import Observer, Pipeline, Step

if TYPE_CHECKING:
    from graphopt.ir import Model, Node

    from .backend import Progress

SEARCHABLE = "quantize-static"
"""The pass whose layers the search for mixed precision leaves as floats, through its option `ignore`."""

PROFILES: dict[str, dict[str, Any]] = {
    "portable": {"activations": "int8", "symmetric": True},
    "onnxruntime": {"activations": "uint8", "symmetric": False, "per_channel": True},
    "openvino": {"activations": "uint8", "symmetric": False, "per_channel": True},
    "tensorrt": {"activations": "int8", "symmetric": True, "per_channel": True, "biases": False},
}
"""Options of `quantize-static` for what runtimes fold into integer kernels.

All fold int8 without zero points; ONNX Runtime and OpenVINO are fastest with uint8; TensorRT adds floats as biases.
"""


def profile_options(name: str | None) -> dict[str, Any]:
    """Return the options of a profile; none for None. Raises InputError if there is no such profile."""
    if name is None:
        return {}
    if name not in PROFILES:
        raise InputError(f"there is no profile '{name}'", remedy=f"the profiles are: {', '.join(PROFILES)}")
    return PROFILES[name]


@dataclass(frozen=True)
class Plan:
    """A pipeline as the steps before the pass that quantizes, this pass, and the steps after it."""

    before: tuple[GrammarStep, ...]
    quantizing: Pass
    after: tuple[GrammarStep, ...]

    @classmethod
    def parse(cls, text: str, options: Mapping[str, Any]) -> Plan:
        """Divide a pipeline, and replace options of its first pass that quantizes (`quantize-static`, if it is there).

        Raises PipelineError if no pass of it is lossy, and InputError for options that the pass does not have.
        """
        steps = list(Pipeline.parse(text).steps)
        wanted = _is_static if any(map(_is_static, Pipeline(tuple(steps)).passes)) else _is_lossy
        place = 0
        while place < len(steps):
            step = steps[place]
            if isinstance(step, PassStep) and wanted(step.pass_):
                chosen = _with(step.pass_, options)
                return cls(tuple(steps[:place]), chosen, tuple(steps[place + 1 :]))
            if isinstance(step, Named) and any(map(wanted, Pipeline((step,)).passes)):
                steps[place : place + 1] = step.body
            else:
                place += 1
        raise PipelineError(
            f"no pass of '{text}' quantizes anything",
            remedy="use a pipeline such as quantize, which `graphopt passes` lists; not a pass in a fixpoint",
        )

    @property
    def searchable(self) -> bool:
        return _is_static(self.quantizing)

    @property
    def head(self) -> Pipeline:
        """What runs before quantization."""
        return Pipeline(self.before)

    def alone(self, ignore: Sequence[str] = ()) -> Pipeline:
        """The pass that quantizes, with further patterns of what it leaves alone."""
        chosen = self.quantizing
        if ignore:
            chosen = _with(chosen, {"ignore": (*chosen.options["ignore"], *ignore)})
        return Pipeline((PassStep(chosen),))

    def without(self, patterns: Sequence[str]) -> Plan:
        """The same with further patterns of nodes that stay floats."""
        ignored = (*self.quantizing.options["ignore"], *patterns)
        return dataclasses.replace(self, quantizing=_with(self.quantizing, {"ignore": ignored})) if patterns else self

    def tail(self, ignore: Sequence[str] = ()) -> Pipeline:
        """The same, and what comes after it."""
        return Pipeline((*self.alone(ignore).steps, *self.after))

    def whole(self, ignore: Sequence[str] = ()) -> Pipeline:
        """The whole pipeline, for a user to run again."""
        return Pipeline((*self.before, *self.tail(ignore).steps))


def exactly(name: str) -> str:
    """Return the pattern that means the nodes with this name."""
    return f"re:{re.escape(name)}"


def _is_static(pass_: Pass) -> bool:
    return pass_.name == SEARCHABLE


def _is_lossy(pass_: Pass) -> bool:
    return pass_.fidelity is Fidelity.LOSSY


def _with(pass_: Pass, options: Mapping[str, Any]) -> Pass:
    for name in options:
        if name not in pass_.options:
            known = ", ".join(pass_.options) or "none"
            raise InputError(f"{pass_.name} has no option '{name}'", remedy=f"its options: {known}")
    try:
        return dataclasses.replace(pass_, **options)
    except GraphOptError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(str(error), where=pass_.name) from error


class Tell(Observer):
    """Tells the progress of passes that take long; each pass is an equal share of all, and the bar never goes back."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.count, self.begun, self.share = 1, 0, 0.0

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        self.count = max(len(pipeline.passes), 1)

    def before(self, step: Step, model: Model) -> None:
        self.begun += 1

    def during(self, step: Step, what: str, done: float) -> None:
        self.tell(f"{step.pass_.name}: {what}", done)

    def tell(self, what: str, done: float) -> None:
        """Tell how much of a pass is done."""
        self.share = max(self.share, min((self.begun - 1 + done) / self.count, 1.0))  # parts of a pass start at 0 again
        self.progress(what, self.share)


class Watch(Tell):
    """Tells which pass runs too, and keeps the reasons why lossy ones left nodes as they are."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self.reasons: dict[str, str] = {}
        """By the label of the node."""

    def declined(self, step: Step, node: Node, reason: str) -> None:
        if step.pass_.fidelity is Fidelity.LOSSY:
            self.reasons.setdefault(node.label, reason)  # passes that mend find it unquantized after the first

    def before(self, step: Step, model: Model) -> None:
        super().before(step, model)
        self.tell(f"{step.pass_.name}: running", 0.0)
