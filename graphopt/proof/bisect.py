"""Bisection: finds the pass, and in it the rewrite, after which a check fails.

A binary search over the number of steps of the pipeline finds the faulty step, and another one over the number of
rewrites of that pass finds the rewrite. Each run starts from a copy of the model: passes are deterministic, so nothing
but numbers has to be kept between runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.errors import GraphOptError, VerificationError
from graphopt.ir import Model, Node
from graphopt.rewriting.passes import Pass
from graphopt.rewriting.pipeline import Observer, PassManager, Pipeline, Step

from .checks import Check

if TYPE_CHECKING:
    from graphopt.compression.evaluation import Evaluation
    from graphopt.hardware.target import Target


@dataclass(frozen=True)
class Rewrite:
    """One rewrite of a pass: its number from 1, its node, and the user's nodes that this node came from."""

    number: int
    node: str
    origin: tuple[str, ...]

    def __str__(self) -> str:
        origin = ", ".join(self.origin)
        came = f" (from {origin})" if origin and self.origin != (self.node.split("'")[1],) else ""
        return f"rewrite {self.number}, at {self.node}{came}"


@dataclass(frozen=True)
class Culprit:
    """The result of bisection; `rewrite` is None if the pass cannot be limited to some of its rewrites."""

    step: Step
    rewrite: Rewrite | None
    complaint: str
    checks: int

    @property
    def pass_name(self) -> str:
        return self.step.pass_.name

    def __str__(self) -> str:
        at = f", {self.rewrite}" if self.rewrite is not None else ""
        return f"{self.step.label} (at {self.step.path} of the pipeline){at}: {self.complaint}"


class _Stop(Exception):
    """Ends a run of a pipeline from within an observer."""


class _Prefix(Observer):
    """Stops before step `limit`, and remembers the last step that was started."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.steps: list[Step] = []

    def before(self, step: Step, model: Model) -> None:
        if self.limit is not None and step.index >= self.limit:
            raise _Stop
        self.steps.append(step)


class _Gate(Observer):
    """Allows `limit` rewrites and records their nodes, before these may be removed."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.rewrites: list[Rewrite] = []

    def allow(self, step: Step, node: Node) -> bool:
        if self.limit is not None and len(self.rewrites) >= self.limit:
            return False
        self.rewrites.append(Rewrite(len(self.rewrites) + 1, node.label, node.origin))
        return True


class Bisection:
    """Searches one pipeline on one model with one check; `progress` is called with what is tried."""

    def __init__(
        self,
        model: Model,
        pipeline: Pipeline,
        check: Check,
        target: Target | None = None,
        progress: Callable[[str], None] | None = None,
        evaluation: Evaluation | None = None,
    ) -> None:
        self.model = model
        self.pipeline = pipeline
        self.check = check
        self.target = target
        self.evaluation = evaluation
        self.progress = progress or (lambda text: None)
        self.checks = 0

    def find(self) -> Culprit | None:
        """The culprit, or None if the whole pipeline passes the check.

        Raises VerificationError if the model fails the check before any pass.
        """
        complaint = self._complaint(self.model.copy(), "the model as it is")
        if complaint:
            raise VerificationError(
                f"the model fails the check before any pass: {complaint}",
                where=self.model.name,
                remedy="bisection needs a check that the original model passes",
            )
        steps, complaint = self._run_prefix(None)
        if not complaint:
            return None
        good, bad = 0, len(steps)
        while bad - good > 1:
            middle = (good + bad) // 2
            _, found = self._run_prefix(middle)
            if found:
                bad, complaint = middle, found
            else:
                good = middle
        before = self._prefix_model(good)
        step = steps[bad - 1]
        rewrite, found = self._guilty_rewrite(before, step.pass_)
        return Culprit(step, rewrite, found or complaint, self.checks)

    def _run_prefix(self, limit: int | None) -> tuple[list[Step], str]:
        """Run the first `limit` steps and check; a pass that raises counts as a complaint."""
        model = self.model.copy()
        prefix = _Prefix(limit)
        what = "the whole pipeline" if limit is None else f"the first {limit} steps"
        error = self._run(self.pipeline, model, prefix)
        complaint = error or self._complaint(model, what)
        self.progress(f"{what}: {complaint or 'good'}")
        return prefix.steps, complaint

    def _prefix_model(self, limit: int) -> Model:
        model = self.model.copy()
        self._run(self.pipeline, model, _Prefix(limit))
        return model

    def _run(self, pipeline: Pipeline, model: Model, observer: Observer) -> str:
        """Run a pipeline; return the message of a pass that failed."""
        try:
            PassManager(pipeline, [observer], self.target, self.evaluation).run(model)
        except _Stop:
            return ""
        except GraphOptError as error:
            return error.message
        return ""

    def _complaint(self, model: Model, what: str) -> str:
        self.checks += 1
        self.progress(f"checking {what}")
        return self.check(model)

    def _guilty_rewrite(self, before: Model, pass_: Pass) -> tuple[Rewrite | None, str]:
        """Return the first rewrite with which the pass fails the check.

        None if the pass fails with no rewrites allowed, or makes either all of its rewrites or none.
        """

        idle: set[int | None] = set()  # limits with which the pass changed nothing

        def attempt(limit: int | None) -> tuple[list[Rewrite], str]:
            model = before.copy()
            gate = _Gate(limit)
            error = self._run(Pipeline.of(pass_), model, gate)
            if model.version == before.version:
                idle.add(limit)
            what = f"{pass_.name} with {'all' if limit is None else limit} of its rewrites"
            complaint = error or self._complaint(model, what)
            self.progress(f"{what}: {complaint or 'good'}")
            return gate.rewrites, complaint

        rewrites, complaint = attempt(None)
        if not rewrites or not complaint or attempt(0)[1]:
            return None, complaint
        good, bad = 0, len(rewrites)
        while bad - good > 1:
            middle = (good + bad) // 2
            found = attempt(middle)[1]
            if found:
                bad, complaint = middle, found
            else:
                good = middle
        if good > 0 and good in idle:
            return None, complaint  # all or nothing: the last rewrite is no more at fault than the others
        return rewrites[bad - 1], complaint


def bisect(
    model: Model,
    pipeline: Pipeline,
    check: Check,
    *,
    target: Target | None = None,
    progress: Callable[[str], None] | None = None,
    evaluation: Evaluation | None = None,
) -> Culprit | None:
    """Find the first faulty step and rewrite of a pipeline; return None if the whole pipeline passes the check.

    Arguments:
        model: is not changed.
        pipeline: what to search.
        check: returns a complaint about a model, or an empty text: `graphopt.proof.checks.numbers_check`,
            `command_check`, or any function.
        target: what passes may specialize for.
        progress: is called with what is tried.
        evaluation: data and limits for lossy passes.

    Raises VerificationError if the model fails the check before any pass.
    """
    return Bisection(model, pipeline, check, target, progress, evaluation).find()


def guilty_rewrite(step: Step, check: Check) -> tuple[Rewrite | None, str]:
    """Return the first rewrite of a step with which the check fails, and its complaint, by running the step again.

    The step must have its model (see `Observer.needs_before`); the pass runs for the step's target again.
    """
    assert step.before is not None
    search = Bisection(step.before, Pipeline.of(step.pass_), check, step.target, evaluation=step.evaluation)
    return search._guilty_rewrite(step.before, step.pass_)
