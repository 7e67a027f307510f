"""The budget of lossy passes: the loss of the model is measured after each pass that changed it."""

from __future__ import annotations

from graphopt.compression.evaluation import Evaluation
from graphopt.errors import GraphOptError, VerificationError
from graphopt.ir import Model
from graphopt.rewriting.passes import Fidelity
from graphopt.rewriting.pipeline import Observer, Step
from graphopt.rewriting.report import StepResult


class CheckBudget(Observer):
    """Measures the loss relative to the original after each lossy pass that changed the model.

    The `loss` of each such step is that of all steps so far. Raises VerificationError, which names the pass and the
    step, if it exceeds the budget.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation

    def after(self, step: Step, model: Model, result: StepResult) -> None:
        budget = self.evaluation.budget
        if not result.changed or step.pass_.fidelity is not Fidelity.LOSSY or budget is None:
            return
        where = f"{model.name}: {step.label}"
        try:
            result.loss = self.evaluation.loss(model)
        except GraphOptError as error:
            error.where = error.where or where
            raise
        if result.loss > budget.max_drop:
            raise VerificationError(
                f"{step.pass_.name} loses too much: {result.loss:.3%} of {self.evaluation.counted.name} against the "
                f"original, but only {budget.max_drop:.3%} may be lost",
                where=where,
                remedy="raise --max-drop, make the pass less aggressive, or do not run it",
            )
