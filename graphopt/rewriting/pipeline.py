"""Pipelines and the pass manager, which runs passes and notifies observers; everything else is done by observers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from graphopt.compression.evaluation import Evaluation
from graphopt.errors import GraphOptError, PassError
from graphopt.ir import Model, Node, edit

from . import grammar
from .grammar import Fixpoint, Named, PassStep
from .passes import Fidelity, Pass, PassContext
from .report import Report, StepResult

if TYPE_CHECKING:
    from graphopt.compression.latency import Latencies
    from graphopt.hardware.target import Target


@dataclass(frozen=True)
class Pipeline:
    """Passes in order, some in groups that repeat. `Pipeline.parse` can read `str(pipeline)`."""

    steps: tuple[grammar.Step, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Parse the text of a pipeline. Raises PipelineError, with a caret under the error.

        The grammar is that of `graphopt.rewriting.grammar`:
        `fold-constants,fixpoint{max=4}(fuse-conv-bn,eliminate-dead)`.
        """
        return cls(grammar.parse(text))

    @classmethod
    def of(cls, *passes: Pass) -> Pipeline:
        """A pipeline of passes, one after the other."""
        return cls(tuple(PassStep(pass_) for pass_ in passes))

    def __str__(self) -> str:
        return grammar.join(self.steps)

    @property
    def passes(self) -> list[Pass]:
        """Every pass in order, including those of groups and named pipelines."""
        found = []
        stack = list(reversed(self.steps))
        while stack:
            step = stack.pop()
            if isinstance(step, PassStep):
                found.append(step.pass_)
            else:
                stack.extend(reversed(step.body))
        return found

    @property
    def fidelity(self) -> Fidelity:
        """The fidelity of the least exact pass."""
        return max((pass_.fidelity for pass_ in self.passes), default=Fidelity.EXACT)


@dataclass(frozen=True)
class Step:
    """One run of one pass: `index` counts runs from 0, `path` is the position in the pipeline (`3.fixpoint[1].0`)."""

    index: int
    pass_: Pass
    path: str
    target: Target | None = field(default=None, repr=False)
    evaluation: Evaluation = field(default_factory=Evaluation, repr=False, compare=False)
    before: Model | None = field(default=None, repr=False, compare=False)
    """The model before this run, for observers that need it (`Observer.needs_before`): one copy, shared by all of them
    until the run ends; it must not be changed."""

    @property
    def label(self) -> str:
        """Its name in messages: `step 12, fuse-conv-bn`."""
        return f"step {self.index}, {self.pass_.name}"


class Observer:
    """An observer of the pass manager. It must not change the model; it may raise to stop the run.

    If `needs_before` is set, `step.before` is the model before the pass. A compilation runs two pipelines, the user's
    and the target's: `begin` and `end` are called for each, and steps are numbered consecutively.
    """

    needs_before: ClassVar[bool] = False

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        """Called before the first pass."""

    def before(self, step: Step, model: Model) -> None:
        """Called before each pass."""

    def allow(self, step: Step, node: Node) -> bool:
        """Called before each rewrite, which happens only if every observer allows it."""
        return True

    def during(self, step: Step, what: str, done: float) -> None:
        """Called during a pass that takes long, with its current activity and the completed share (0 to 1)."""

    def declined(self, step: Step, node: Node, reason: str) -> None:
        """Called for each node that the pass nearly rewrote, with the reason why it did not."""

    def after(self, step: Step, model: Model, result: StepResult) -> None:
        """Called after each pass, with nodes in order again; may set `result.error`."""

    def failed(self, step: Step, model: Model, error: GraphOptError) -> None:
        """Called when a pass, or an observer after it, raised an error, which then propagates."""

    def end(self, model: Model, report: Report) -> None:
        """Called after the last pass; the report includes the steps of earlier pipelines of the same run."""


class PassManager:
    """Runs a pipeline over a model and notifies observers.

    `target`, `evaluation` and `latencies` become part of the passes' context.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        observers: Sequence[Observer] = (),
        target: Target | None = None,
        evaluation: Evaluation | None = None,
        latencies: Latencies | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.latencies = latencies
        self.observers = list(observers)
        self.target = target
        self.evaluation = evaluation or Evaluation()
        self._before: Model | None = None
        self._floats: Model | None = None

    def run(self, model: Model, earlier: Report | None = None) -> Report:
        """Run the pipeline's passes on `model`, and report what they did.

        `earlier` is the report of a pipeline that ran before on the same model: the result continues it, as if both had
        been one pipeline. Raises PassError if a pass raises or leaves a cycle, and whatever observers raise.
        """
        earlier = earlier or Report()
        report = Report(",".join(filter(None, (earlier.pipeline, str(self.pipeline)))), list(earlier.steps))
        first = 1 + max((int(step.path.partition(".")[0]) for step in earlier.steps), default=-1)
        start = time.perf_counter()
        self._floats = None
        for observer in self.observers:
            observer.begin(model, self.pipeline)
        for path, pass_ in _walk(self.pipeline.steps, "", lambda: model.version, first):
            step = Step(len(report.steps), pass_, path, self.target, self.evaluation, self._lend(model))
            report.steps.append(self._run_step(step, model))
        self._before = self._floats = None
        report.seconds = earlier.seconds + time.perf_counter() - start
        for observer in self.observers:
            observer.end(model, report)
        return report

    def _lend(self, model: Model) -> Model | None:
        """Return the current model, copied if anybody needs it and the last copy is of another version."""
        if not any(observer.needs_before for observer in self.observers):
            return None
        if self._before is None or self._before.version != model.version:
            self._before = model.copy()
        return self._before

    def _during(self, step: Step, what: str, done: float) -> None:
        for observer in self.observers:
            observer.during(step, what, done)

    def _run_step(self, step: Step, model: Model) -> StepResult:
        for observer in self.observers:
            observer.before(step, model)
        if step.pass_.fidelity is Fidelity.LOSSY and self._floats is None:
            self._floats = model.copy()
        context = PassContext(model, self.target, self.evaluation, self._floats, self.latencies)
        if self.observers:
            context.gate = lambda node: all(observer.allow(step, node) for observer in self.observers)
            context.declined = lambda node, reason: self._tell(step, node, reason)
        context.progress = lambda what, done: self._during(step, what, done)
        result = StepResult(
            step.pass_.name, step.pass_.options, step.pass_.fidelity, step.path, nodes_before=_count_nodes(model)
        )
        version, start = model.version, time.perf_counter()
        try:
            _run_pass(step, model, context)
            result.seconds = time.perf_counter() - start
            result.changed = model.version != version
            result.nodes_after = _count_nodes(model)
            result.counts, result.misses = dict(context.counts), dict(context.misses)
            for observer in self.observers:
                observer.after(step, model, result)
        except GraphOptError as error:
            for observer in self.observers:
                observer.failed(step, model, error)
            raise
        return result

    def _tell(self, step: Step, node: Node, reason: str) -> None:
        for observer in self.observers:
            observer.declined(step, node, reason)


def _run_pass(step: Step, model: Model, context: PassContext) -> None:
    version = model.version
    try:
        step.pass_.run(model.graph, context)
    except GraphOptError:
        raise
    except Exception as error:
        raise PassError(
            " ".join([f"it raised {type(error).__name__}: {error}", *getattr(error, "__notes__", ())]),
            where=f"{model.name}: {step.label}",
            remedy="do not run the pass, or report it with the reproducer that --reproducer writes",
        ) from error
    if model.version != version:
        _restore_order(step, model)


def _restore_order(step: Step, model: Model) -> None:
    """Sort nodes after what they need, because a rewrite may read a value that is produced further down."""
    for root in (model.graph, *(function.graph for function in model.functions.values())):
        for graph in root.all_graphs():
            if graph.is_sorted():
                continue
            order = graph.topological_order()
            if len(order) < len(graph.nodes):
                left = set(graph.nodes) - set(order)
                node = next(node for node in graph.nodes if node in left)
                raise PassError(f"it left a cycle through {node.label}", where=f"{model.name}: {step.label}")
            edit.reorder(graph, order)


def _count_nodes(model: Model) -> int:
    return sum(len(graph.nodes) for graph in model.graph.all_graphs())


def _walk(
    steps: tuple[grammar.Step, ...], prefix: str, version: Callable[[], int], first: int = 0
) -> Iterator[tuple[str, Pass]]:
    """Yield the passes in the order of execution; a fixpoint continues while its rounds change the model."""
    for index, step in enumerate(steps, first):
        path = f"{prefix}{index}"
        if isinstance(step, PassStep):
            yield path, step.pass_
        elif isinstance(step, Named):
            yield from _walk(step.body, f"{path}.{step.name}.", version)
        elif isinstance(step, Fixpoint):
            for round_ in range(step.max):
                before = version()
                yield from _walk(step.body, f"{path}.fixpoint[{round_}].", version)
                if version() == before:
                    break
