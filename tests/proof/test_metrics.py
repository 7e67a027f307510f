"""Metrics over many samples, and their losses."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from graphopt.compression.budget import Budget
from graphopt.compression.evaluation import Evaluation
from graphopt.data.samples import Samples, Validation
from graphopt.errors import InputError
from graphopt.proof.metrics import METRICS, Metric
from graphopt.proof.spread import OutputErrors, Spread
from tests.helpers import model_of

RNG = np.random.default_rng(0)


def measured(name: str, expected: np.ndarray, got: np.ndarray, labels: np.ndarray | None = None) -> float:
    meter = Metric.parse(name).start()
    for index in range(len(expected)):
        wanted = None if labels is None else {"labels": labels[index]}
        meter.add({"y": expected[index : index + 1]}, {"y": got[index : index + 1]}, wanted)
    return meter.value


def test_each_metric_is_what_its_name_says() -> None:
    expected = RNG.normal(size=(6, 10)).astype(np.float32)
    noise = 0.01 * RNG.normal(size=(6, 10)).astype(np.float32)
    got = expected + noise
    relative = np.abs(got - expected) / np.abs(expected).max(axis=1, keepdims=True)
    assert measured("error-max", expected, got) == pytest.approx(relative.max(), rel=1e-3)
    assert measured("error-mean", expected, got) == pytest.approx(relative.mean(), rel=1e-3)
    assert measured("error-p99", expected, got) == pytest.approx(np.percentile(relative, 99), rel=0.15)
    sqnr = 10 * np.log10((expected.astype(float) ** 2).sum() / ((got.astype(float) - expected) ** 2).sum())
    assert measured("sqnr", expected, got) == pytest.approx(sqnr, abs=1e-3)
    cosine = [np.dot(e, g) / np.linalg.norm(e) / np.linalg.norm(g) for e, g in zip(expected, got)]
    assert measured("cosine", expected, got) == pytest.approx(np.mean(cosine), abs=1e-6)
    swapped = got.copy()
    swapped[:2] = -swapped[:2]
    assert measured("top1", expected, swapped) == pytest.approx(4 / 6)
    labels = expected.argmax(axis=1)
    assert measured("accuracy", expected, swapped, labels) == pytest.approx(4 / 6)


@pytest.mark.parametrize("name", METRICS)
def test_nothing_is_lost_by_the_same_outputs_and_much_by_others(name: str) -> None:
    expected = RNG.normal(size=(6, 10)).astype(np.float32)
    labels = expected.argmax(axis=1)
    metric = Metric.parse(name)
    base = measured(name, expected, expected, labels)
    assert metric.loss(base, base) == 0
    assert metric.loss(measured(name, expected, -expected, labels), base) > 0.5
    nan = np.full_like(expected, np.nan)
    assert metric.loss(measured(name, expected, nan, labels), base) > 0.5


def test_figures_of_errors_in_bounded_memory_merge() -> None:
    errors = 10.0 ** RNG.uniform(-9, -1, 100_000)
    whole, left, right = Spread(), Spread(), Spread()
    whole.add(errors)
    left.add(errors[:30_000])
    right.add(errors[30_000:])
    left.merge(right)
    for spread in (whole, left):
        assert spread.count == 100_000
        assert spread.mean == pytest.approx(errors.mean())
        assert spread.largest == errors.max()
        for percent in (1, 50, 99, 99.9):
            assert spread.percentile(percent) == pytest.approx(np.percentile(errors, percent), rel=0.06)
    assert Spread().percentile(99) == Spread().mean == 0
    exact = Spread()
    exact.add(np.array([0.0, 0.0, 0.0, math.nan]))
    assert exact.percentile(50) == 0
    assert exact.largest == exact.percentile(100) == math.inf


def test_outputs_of_another_form_are_infinitely_wrong() -> None:
    errors = OutputErrors()
    one = np.ones(3, np.float32)
    errors.add({"a": one, "b": one, "c": [one, one], "d": None}, {"a": one.astype(float), "c": [one], "d": None})
    assert [errors.outputs[name].largest for name in "abcd"] == [math.inf, math.inf, math.inf, 0]
    same = OutputErrors()
    odd = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    same.add({"a": odd, "i": np.array([3, 4])}, {"a": odd, "i": np.array([3, 4])})
    assert same.outputs["a"].largest == same.outputs["i"].largest == 0
    same.add({"a": odd}, {"a": odd[::-1].copy()})
    assert same.outputs["a"].largest == math.inf


def test_the_user_s_own_function(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("my_metric")
    module.score = lambda got, expected: 1.0 - float(np.abs(got["y"] - expected["y"]).max())  # type: ignore[attr-defined]
    module.broken = lambda got, expected: got["nothing"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_metric", module)
    ones = np.ones((2, 3), np.float32)
    assert measured("my_metric:score", ones, ones * 0.75) == pytest.approx(0.75)
    with pytest.raises(InputError, match="raised KeyError"):
        measured("my_metric:broken", ones, ones)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cosin", r"no metric 'cosin'\s+did you mean 'cosine'"),
        ("no_such_module:f", "cannot be loaded"),
        ("math:nothing", "cannot be loaded"),
        ("math:pi", "is not a function"),
    ],
)
def test_metrics_that_are_none(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Metric.parse(name)


@pytest.mark.parametrize(("text", "limit"), [("1%", 0.01), ("0.5 %", 0.005), ("0.02", 0.02), ("0", 0.0)])
def test_budgets(text: str, limit: float) -> None:
    assert Budget.parse(text).max_drop == pytest.approx(limit)
    assert Budget.parse(str(Budget.parse(text))) == Budget.parse(text)


@pytest.mark.parametrize("text", ["", "much", "-1%", "100%", "1.0", "5 percent"])
def test_budgets_that_accept_anything_or_are_none(text: str) -> None:
    with pytest.raises(InputError):
        Budget.parse(text)


class TestEvaluation:
    MODEL = "g (float[1,4] X) => (float[1,4] Y) { Y = Mul(X, w) }"

    def test_loss_is_counted_from_the_original(self) -> None:
        original = model_of(self.MODEL, {"w": np.ones(4, np.float32)})
        changed = model_of(self.MODEL, {"w": np.array([1, 1, 1, -1], np.float32)})
        feeds = list(np.eye(4, dtype=np.float32)[:, None])
        answers = [{"X": feed, "labels": feed.argmax(axis=1)} for feed in feeds]
        samples = Evaluation(Samples(feeds, original), metric=Metric.parse("top1"), original=original)
        assert samples.loss(original) == 0
        assert samples.loss(changed) == pytest.approx(0.25)
        validation = Validation(answers, original)
        labelled = Evaluation(validation=validation, metric=Metric.parse("accuracy"), original=original)
        assert labelled.loss(changed) == pytest.approx(0.25)

    def test_what_cannot_be_judged_is_refused(self) -> None:
        with pytest.raises(InputError, match="a budget needs data"):
            Evaluation(budget=Budget(0.01))
        with pytest.raises(InputError, match="needs expected results"):
            Evaluation(metric=Metric.parse("accuracy"))
        with pytest.raises(InputError, match=r"this pass needs samples\s+give --samples"):
            Evaluation().require("samples")
