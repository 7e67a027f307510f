"""A run of `quantize`: what its model, its data and its budget ask for, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.compression.costs import COSTS, LATENCY, CostTable, LatencyCost
from graphopt.compression.judge import Judge
from graphopt.compression.latency import LEAST_GAIN
from graphopt.compression.layer_errors import result_errors
from graphopt.compression.layers import layers_of
from graphopt.compression.store import StatisticsStore, digest_of
from graphopt.compression.suspicions import suspicions
from graphopt.errors import InputError, PassError
from graphopt.ir import Model, infer_shapes
from graphopt.rewriting.shapes import fix_shapes

from .mixed_precision import Folder, Search
from .optimizing import run_passes
from .placing import Placement, Placing
from .quantization_plan import Plan, Tell, Watch, exactly
from .quantization_report import QuantizationReport

if TYPE_CHECKING:
    from graphopt.compression.evaluation import Evaluation
    from graphopt.compression.layers import Layer
    from graphopt.compression.statistics import ActivationStatistics
    from graphopt.rewriting.report import Report

    from .backend import Progress


@dataclass
class Quantized:
    """The result of `quantize`. `statistics` are None if no pass has asked for any."""

    model: Model
    report: QuantizationReport
    statistics: ActivationStatistics | None = None


@dataclass
class Job:
    """One run of `quantize`."""

    plan: Plan
    evaluation: Evaluation
    cost: str
    progress: Progress
    placing: Placing | None = None
    latency: LatencyCost | None = None
    """What layers take on the target, once these are placed."""

    def run(self, original: Model, sensitivity: bool, folder: Path | None) -> Quantized:
        self.progress("checking the data", 0.0)
        warnings = self._warnings(original)
        with Judge(self.evaluation) as judge:
            warnings += _chance(judge, judge.baseline(self.part(0.0, 0.1)), original)
            self.progress("optimizing", 0.1)
            prepared = original.copy()
            tell = Tell(self.part(0.1, 0.15))  # the many passes that take no time are not worth a line each
            report = run_passes(prepared, self.plan.head, evaluation=self._lossy, observers=[tell])
            infer_shapes(prepared)
            before = self._layers(prepared)
            placement = self._place(before)
            result, passes, reasons = self._quantized(prepared, report, (), self.part(0.2, 0.5))
            measured = judge.measure(result, progress=self.part(0.5, 0.6))
            found = QuantizationReport(
                str(self.plan.whole()), passes, before, self._layers(result), measured, reasons, self._limit, warnings
            )
            found.placement = placement
            if self._store.unused:
                raise InputError(
                    "the statistics are of another model, or of this one after other passes",
                    where="--statistics",
                    remedy="collect them again with --save-statistics, and the same --passes",
                )
            if not found.changed:
                raise PassError("nothing was quantized", where=original.name, remedy=_reasons(found))
            if self.plan.searchable and (sensitivity or not found.met):
                result = self._search(judge, prepared, report, result, found, folder)
        self._complete(found, prepared, result)
        statistics = self._store.merged() if any(self._store.known.values()) else None
        return Quantized(result, found, statistics)

    def _search(
        self,
        judge: Judge,
        prepared: Model,
        report: Report,
        result: Model,
        found: QuantizationReport,
        folder: Path | None,
    ) -> Model:
        """Measure the sensitivity and, if the budget is not met, look for layers to leave as floats."""
        names = {layer.label for layer in found.changed}
        search = Search(
            [layer for layer in found.before if layer.label in names],
            lambda ignore: self._alone(prepared, ignore),
            lambda ignore: self._quantized(prepared, report, ignore)[0],
            judge,
            self._costs(),
            Folder.of(folder, self._digest(prepared)),
            self.part(0.6, 0.85),
        )
        found.sensitivity = search.sensitivity(result)
        if found.met:
            search.folder.remove()
            return result
        assert self._limit is not None
        best = search.find(self._limit, found.measured, found.sensitivity)
        found.tried += best.tried
        if best.ignored:
            result, found.passes, found.reasons = self._quantized(prepared, report, best.ignored)
            found.measured, found.after = best.measured, self._layers(result)
            found.pipeline = str(self.plan.whole(best.ignored))
        search.folder.remove()
        return result

    def _complete(self, found: QuantizationReport, prepared: Model, result: Model) -> None:
        """Put the errors of layers and their costs into the report."""
        data = self.evaluation.samples
        if data is None and self.evaluation.validation is not None:
            data = self.evaluation.validation.samples
        assert data is not None
        changed = {layer.label for layer in found.changed}
        layers = [layer for layer in found.before if layer.label in changed]
        found.errors = result_errors(prepared, result, layers, data, self.part(0.85, 0.9))
        table = self._costs()
        found.unit = table.unit
        found.costs = (
            sum(table.cost(layer, layer.precision) for layer in found.before),
            sum(table.cost(layer, layer.precision) for layer in found.after),
        )

    def _place(self, layers: Sequence[Layer]) -> Placement | None:
        """Let layers that are not faster as integers on the target stay floats."""
        if self.placing is None:
            return None
        placement, self.latency = self.placing.place(layers, self.part(0.15, 0.2))
        if layers and len(placement.floats) == len(layers):
            raise PassError(
                f"nothing was quantized: no layer is {LEAST_GAIN:g} times as fast as integers on {placement.target}",
                remedy="keep the model as it is, or omit the target for a smaller file",
            )
        self.plan = self.plan.without([exactly(one.layer.name) for one in placement.floats])
        return placement

    def _costs(self) -> CostTable:
        if self.cost == LATENCY:
            assert self.latency is not None
            return self.latency
        return COSTS[self.cost]()

    def _quantized(
        self, prepared: Model, report: Report, ignore: Sequence[str], progress: Progress = lambda what, done: None
    ) -> tuple[Model, Report, dict[str, str]]:
        """Return the model with the passes that quantize run on it, their report, and why they left nodes."""
        copy, watch = prepared.copy(), Watch(progress)
        passes = run_passes(copy, self.plan.tail(ignore), evaluation=self._lossy, observers=[watch], earlier=report)
        infer_shapes(copy)
        return copy, passes, watch.reasons

    def _alone(self, prepared: Model, ignore: Sequence[str]) -> Model:
        """Return the model quantized without the passes that follow, which take long and are run for results only."""
        copy = prepared.copy()
        run_passes(copy, self.plan.alone(ignore), evaluation=self._lossy)
        return copy

    @property
    def _lossy(self) -> Evaluation:
        """The evaluation for passes: without a budget, which holds for the result of all of them."""
        return dataclasses.replace(self.evaluation, budget=None)

    @property
    def _limit(self) -> float | None:
        return None if self.evaluation.budget is None else self.evaluation.budget.max_drop

    @property
    def _store(self) -> StatisticsStore:
        return self.evaluation.statistics

    def part(self, start: float, end: float) -> Progress:
        return lambda what, done: self.progress(what, start + done * (end - start))

    def _layers(self, model: Model) -> list[Layer]:
        """Return the layers, with the sizes that they have for the first case."""
        copy = model.copy()
        feed = next(iter(self.evaluation.cases())).inputs
        fix_shapes(copy, {name: array.shape for name, array in feed.items() if hasattr(array, "shape")})
        return layers_of(copy)

    def _warnings(self, original: Model) -> list[str]:
        samples, validation = self.evaluation.samples, self.evaluation.validation
        found = [] if samples is None else suspicions(samples, original)
        if samples is not None and validation is not None and samples.digest == validation.samples.digest:
            found.append("the validation set has the inputs of the calibration: the loss for other data will be larger")
        return found

    def _digest(self, prepared: Model) -> str:
        """Return what the state of a search depends on."""
        evaluation = self.evaluation
        data = [one.digest for one in (evaluation.samples, evaluation.validation) if one is not None]
        loaded = [one.digest for one in self._store.loaded]
        words = [digest_of(prepared), *data, *loaded, evaluation.counted.name, str(self.plan.whole()), self.cost]
        return " ".join([*words, str(self._limit)])


def _chance(judge: Judge, value: float, original: Model) -> list[str]:
    """Warn if the original itself knows no better than guessing: labels or preprocessing are wrong."""
    shape = original.graph.outputs[0].shape
    classes = shape[-1] if shape else None
    if judge.metric.name != "accuracy" or not isinstance(classes, int) or classes < 2 or value > 1.5 / classes:
        return []
    return [
        f"the original has an accuracy of {value:.1%} among {classes} classes, like guessing: "
        "check the labels and the preprocessing"
    ]


def _reasons(found: QuantizationReport) -> str:
    return "; ".join(sorted(set(found.reasons.values()))) or "the pipeline has no pass that quantizes this model"
