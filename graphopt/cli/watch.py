"""Observers of the command line: progress of the passes, and the report of a pipeline that runs inside `compile`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from graphopt.ir import Model
from graphopt.proof.observers import PassLimit, PrintChanged
from graphopt.rewriting.pipeline import Observer, Pipeline, Step
from graphopt.rewriting.report import Report

from .output import Progress


class ReportKeeper(Observer):
    """Keeps the report of a pipeline, and the number of nodes before and after."""

    def __init__(self) -> None:
        self.report = Report()
        self.nodes_before = 0
        self.nodes_after = 0

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        self.nodes_before = self.nodes_before or _count(model)

    def end(self, model: Model, report: Report) -> None:
        self.report = report
        self.nodes_after = _count(model)


class ShowProgress(Observer):
    """Shows which pass runs. The number of steps of a pipeline is not known in advance, because of fixpoint groups."""

    def __init__(self, progress: Progress, start: float, end: float) -> None:
        self.progress = progress
        self.start = start
        self.end_ = end
        self.expected = 0

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        self.expected += 2 * len(pipeline.passes) or 1

    def before(self, step: Step, model: Model) -> None:
        done = min(step.index / self.expected, 1.0)
        self.progress(f"pass {step.pass_.name}", self.start + done * (self.end_ - self.start))

    def during(self, step: Step, what: str, done: float) -> None:
        share = min((step.index + done) / self.expected, 1.0)
        self.progress(f"pass {step.pass_.name}: {what}", self.start + share * (self.end_ - self.start))


class TellLimit(PassLimit):
    """A pass limit that reports at the end which rewrite was the last."""

    _told = ""

    def end(self, model: Model, report: Report) -> None:
        if self.last != self._told:
            self._told = self.last
            _say(f"pass limit: {self.done} rewrites were made, the last one in {self.last}")


def observers(
    progress: Progress, start: float, end: float, pass_limit: int | None, print_changed: bool
) -> Sequence[Observer]:
    """Return the observers for the options of a command; `start` and `end` are the passes' share of its progress."""
    found: list[Observer] = [ShowProgress(progress, start, end)] if sys.stderr.isatty() else []
    if pass_limit is not None:
        found.append(TellLimit(pass_limit))
    if print_changed:
        found.append(PrintChanged(_say))
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _count(model: Model) -> int:
    return sum(len(graph.nodes) for graph in model.graph.all_graphs())
