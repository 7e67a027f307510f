"""gptq, refine-rounding and correct-biases: each on a network where plain rounding loses much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.compression.evaluation import Evaluation
from graphopt.compression.products import Moments, affordable, collect_moments
from graphopt.data.samples import Samples
from graphopt.driver.optimizing import run_passes
from graphopt.driver.quantization_plan import Watch
from graphopt.errors import InputError, PassError
from graphopt.ir import Model, Tensor, infer_shapes
from graphopt.passes.quantization import mending
from graphopt.passes.quantization.correct_biases import CorrectBiases
from graphopt.passes.quantization.gptq import Gptq
from graphopt.passes.quantization.mending import OutputError, Step, keep_what_helps
from graphopt.passes.quantization.quantize_weights import QuantizeWeights
from graphopt.passes.quantization.refine_rounding import RefineRounding
from graphopt.passes.quantization.search_ranges import SearchRanges
from graphopt.proof.oracle import Reference
from graphopt.rewriting.passes import PassContext
from tests.helpers import model_of
from tests.passes.quantization.measuring import OPSET, Feed, array, network, noise, run

WEIGHTS = "quantize-weights{bits=3 least=1 few=0}"
CASES = {
    "matmul": ("MatMul(X, w)", {"w": (48, 24)}, (40, 48)),
    "sequences": ("MatMul(X, w)", {"w": (48, 24)}, (4, 10, 48)),
    "gemm": ("Gemm<transB=1>(X, w, b)", {"w": (24, 48), "b": (24,)}, (40, 48)),
    "conv": ("Conv<pads=[1,1,1,1], strides=[2,1]>(X, w, b)", {"w": (12, 8, 3, 3), "b": (12,)}, (2, 8, 9, 9)),
    "dilated": ("Conv<dilations=[2,1]>(X, w)", {"w": (12, 8, 3, 3)}, (2, 8, 9, 9)),
    "grouped": ("Conv<group=2>(X, w, b)", {"w": (12, 4, 3, 3), "b": (12,)}, (2, 8, 9, 9)),
    "depthwise": ("Conv<group=8>(X, w, b)", {"w": (8, 1, 3, 3), "b": (8,)}, (2, 8, 9, 9)),
    "along one axis": ("Conv<pads=[1,1]>(X, w)", {"w": (12, 8, 3)}, (2, 8, 30)),
}


def correlated(seed: int, shape: tuple[int, ...], mean: float = 0.0) -> np.ndarray:
    """Data whose neighbours are alike, as in pictures and after a layer: rounding errors can make up for each other."""
    numbers = np.random.default_rng(seed).normal(size=shape)
    for axis in range(1, len(shape)):
        for place in range(1, shape[axis]):
            at, before = ((slice(None),) * axis + (i,) for i in (place, place - 1))
            numbers[at] = 0.9 * numbers[before] + 0.44 * numbers[at]
    return (numbers + mean).astype(np.float32)


def case(name: str, mean: float = 0.0) -> tuple[Model, list[Feed], list[Feed]]:
    """A model, samples for it, and others to measure the error with."""
    body, shapes, data = CASES[name]
    model = network(f"Y = {body}", shapes, data)
    samples = [{"X": correlated(seed, data, mean)} for seed in range(32)]
    return model, samples[:24], samples[24:]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("passes", ["gptq", "gptq{order=false}", "refine-rounding", "gptq,refine-rounding"])
def test_weights_are_rounded_anew(name: str, passes: str) -> None:
    model, samples, others = case(name)
    plain, _ = run(model, WEIGHTS, samples)
    better, report = run(model, f"{WEIGHTS},{passes}", samples)
    counts = [step.counts for step in report.steps[1:]]
    assert counts[0] == {"products rounded anew": 1}
    assert noise(model, better, others) < 0.85 * noise(model, plain, others)


def test_weights_of_eight_bits_are_rounded_anew() -> None:
    model, samples, others = case("conv")
    static = "quantize-static{per_channel=false weights=min-max}"
    plain, better = (run(model, passes, samples)[0] for passes in (static, f"{static},gptq,refine-rounding"))
    assert noise(model, better, others) < 0.95 * noise(model, plain, others)
    assert not [
        v
        for v in better.graph.values()
        if v.constant and v.constant.dtype.text == "int8" and np.any(v.constant.numpy() == -128)
    ]  # which a symmetric type does not use


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "passes", ["quantize-weights{bits=3 group=0 least=1 few=0}", "quantize-weights{bits=3 least=1 few=0}"]
)
def test_ranges_are_chosen_by_the_error_of_results(name: str, passes: str) -> None:
    """Every eighth of the data is large: there, weights must be exact, and may be clipped elsewhere."""
    model, samples, others = case(name)
    for feed in (*samples, *others):
        channels = feed["X"].swapaxes(1 if "Conv" in CASES[name][0] else -1, 0)
        channels[::8] *= 8
    plain, _ = run(model, passes, samples)
    better, report = run(model, f"{passes},search-ranges", samples)
    assert report.steps[1].counts == {"ranges changed": 1}
    assert noise(model, better, others) < 0.9 * noise(model, plain, others)


def test_a_bias_follows_the_ranges() -> None:
    for options in ("per_channel=false weights=min-max", "weights=min-max"):
        model, samples, others = case("conv", mean=4.0)
        plain, _ = run(model, f"quantize-static{{{options}}}", samples)
        better, report = run(model, f"quantize-static{{{options}}},search-ranges", samples)
        assert report.steps[1].counts == {"ranges changed": 1}
        assert noise(model, better, others) < noise(model, plain, others)
        (node,) = (node for node in better.graph.nodes if node.op == "Conv")
        scales = [array(v.producer.inputs[1]) for v in node.inputs if v is not None and v.producer is not None]
        np.testing.assert_allclose(scales[2], scales[0] * scales[1], rtol=1e-6)


def test_refinement_improves_what_gptq_found() -> None:
    model, samples, _ = case("matmul")
    errors = [
        noise(model, run(model, f"{WEIGHTS},{passes}", samples)[0], samples)
        for passes in ("gptq", "gptq,refine-rounding{sweeps=1}", "gptq,refine-rounding{sweeps=20}")
    ]
    assert errors[0] > errors[1] >= errors[2]


@pytest.mark.parametrize("name", [name for name in CASES if "b" in CASES[name][1]])
@pytest.mark.parametrize("passes", [WEIGHTS, "quantize-static{weights=min-max per_channel=false}"])
def test_biases_are_corrected(name: str, passes: str) -> None:
    """Data far from zero: what rounding adds to a channel's weights shifts the mean of its results."""
    model, samples, others = case(name, mean=4.0)
    plain, _ = run(model, passes, samples)
    better, report = run(model, f"{passes},correct-biases", samples)
    assert report.steps[1].counts == {"biases corrected": 1}
    limit = 0.6 if passes == WEIGHTS else 1.0
    assert noise(model, better, others) < limit * noise(model, plain, others)
    with Reference(model) as one, Reference(plain) as two, Reference(better) as three:
        results = [np.stack([r.run(feed)["Y"] for feed in samples]) for r in (one, two, three)]
    axis = tuple(i for i in range(results[0].ndim) if i != (2 if results[0].ndim == 5 else results[0].ndim - 1))
    shift = [np.abs((r - results[0]).mean(axis)).max() for r in results[1:]]
    assert shift[1] < 0.35 * shift[0]


def test_a_bias_is_made_or_found_behind_the_product() -> None:
    """A convolution gets one; that of a matmul is the constant that an Add adds."""
    for body, shapes, data, op in (
        ("Y = Conv(X, w)", {"w": (12, 8, 1, 1)}, (2, 8, 9, 9), "Conv"),
        ("a = MatMul(X, w)  Y = Add(b, a)", {"w": (48, 24), "b": (24,)}, (2, 5, 48), "Add"),
    ):
        model = network(body, shapes, data)
        samples = [{"X": correlated(seed, data, 4.0)} for seed in range(8)]
        plain, better = (run(model, p, samples)[0] for p in (WEIGHTS, f"{WEIGHTS},correct-biases"))
        assert noise(model, better, samples) < 0.8 * noise(model, plain, samples)
        (node,) = (node for node in better.graph.nodes if node.op == op)
        assert array(node.inputs[2 if op == "Conv" else 0]).shape == ((12,) if op == "Conv" else (24,))


def test_an_int32_bias_stays_one_with_the_scale_of_the_sums() -> None:
    model, samples, _ = case("conv", mean=4.0)
    better, _ = run(model, "quantize-static{weights=min-max per_channel=false},correct-biases", samples)
    (node,) = (node for node in better.graph.nodes if node.op == "Conv")
    scales = []
    for value in node.inputs:
        assert value is not None
        assert value.producer is not None
        scales.append(array(value.producer.inputs[1]))
    np.testing.assert_allclose(scales[2], scales[0] * scales[1], rtol=1e-6)
    bias = node.inputs[2]
    assert bias is not None
    assert bias.producer is not None
    assert array(bias.producer.inputs[0]).dtype == np.int32
    assert not bias.producer.origin, "origins take room in the file"


def test_what_does_not_help_is_not_done() -> None:
    """Weights that are integers of the type already."""
    text = f"{OPSET} g (float[40,48] X) => (float[A,B] Y) {{ Y = MatMul(X, w) }}"
    model = model_of(text, {"w": np.random.default_rng(0).integers(0, 16, (48, 24)).astype(np.float32)})
    samples = [{"X": correlated(seed, (40, 48))} for seed in range(4)]
    _, report = run(model, "quantize-weights{group=0 least=1 few=0},gptq,refine-rounding", samples)
    for step in report.steps[1:]:
        assert not step.changed
        assert step.misses == {"no other rounding lowers the error of the product": 1}


def test_a_step_that_harms_the_outputs_is_undone() -> None:
    """The first half of the steps lowers the error, one of the others raises it."""
    text = f"{OPSET} g (float[4] X) => (float[4] Y) {{ a = Add(X, b)  c = Add(a, d)  Y = Add(c, e) }}"
    model = model_of(text, {name: np.zeros(4, np.float32) for name in "bde"})
    infer_shapes(model)
    feeds = [{"X": np.ones(4, np.float32)}]
    context = PassContext(model.copy(), evaluation=Evaluation(samples=Samples(feeds, model)), floats=model)
    error = OutputError(context)

    def step(name: str, amount: float) -> Step:
        value = context.model.graph.find(name)
        assert value is not None
        assert value.tensor is not None
        tensor, other = value.tensor, Tensor.of(np.full(4, amount, np.float32))
        rewriter = context.rewriter(context.model.graph)
        return Step(
            value.uses[0].node, lambda: rewriter.set_tensor(value, other), lambda: rewriter.set_tensor(value, tensor)
        )

    step("e", 1.0).make()  # what is wrong with the model
    keep_what_helps(context, [step("b", -1.0), step("d", 5.0)], error, "mended")
    assert context.counts == {"mended": 1}
    assert context.misses == {"it would not lower the error of the outputs": 1}
    assert error.of(context.model) == 0


def test_the_error_is_that_of_all_samples_joined_or_not() -> None:
    """With an open first axis, three samples are measured in one run."""
    rng = np.random.default_rng(0)
    feeds = [{"X": rng.normal(size=(1, 4)).astype(np.float32)} for _ in range(3)]
    weights = rng.normal(size=(4, 5)).astype(np.float32)
    errors = []
    for size, runs in (("N", 1), ("1", 3)):
        text = f"{OPSET} g (float[{size},4] X) => (float[{size},5] Y) {{ Y = MatMul(X, w) }}"
        model, other = (model_of(text, {"w": w}) for w in (weights, np.round(weights, 1)))
        infer_shapes(model)
        error = OutputError(PassContext(model, evaluation=Evaluation(samples=Samples(feeds, model)), floats=model))
        assert len(error.feeds) == runs
        errors.append(error.of(other))
    data = np.concatenate([feed["X"] for feed in feeds])
    wanted = np.square(data @ (np.round(weights, 1) - weights)).sum() / np.square(data @ weights).sum()
    np.testing.assert_allclose(errors, wanted, rtol=1e-3)


def test_what_would_take_too_long_to_measure_is_left_alone() -> None:
    """The error is measured twice: of the model as it is, and with both steps, one of which harms."""
    text = f"{OPSET} g (float[4] X) => (float[4] Y) {{ a = Add(X, b)  Y = Add(a, d) }}"
    model = model_of(text, {name: np.zeros(4, np.float32) for name in "bd"})
    infer_shapes(model)
    samples = Samples([{"X": np.ones(4, np.float32)}], model)
    told: list[str] = []
    context = PassContext(
        model.copy(),
        evaluation=Evaluation(samples=samples),
        floats=model,
        progress=lambda what, done: told.append(what),
    )
    error = OutputError(context)
    assert error.left > 1000, "a small model is measured as often as needed"
    error.left = 2
    node = next(iter(context.model.graph.nodes))
    made: list[int] = []
    value = context.model.graph.find("d")
    assert value is not None
    tensor = value.tensor
    assert tensor is not None
    rewriter = context.rewriter(context.model.graph)
    harmful = Step(
        node,
        lambda: rewriter.set_tensor(value, Tensor.of(np.full(4, 5, np.float32))),
        lambda: rewriter.set_tensor(value, tensor),
    )
    useless = Step(node, lambda: made.append(1), lambda: made.append(-1))
    keep_what_helps(context, [harmful, useless], error, "mended")
    assert made == [1, -1]
    assert not context.counts
    assert context.misses == {"to find out whether it lowers the error of the outputs would take too long": 2}
    assert told == ["measuring 2 of 2 products"]
    assert error.of(context.model) == 0


@pytest.mark.parametrize("passes", ["gptq", "search-ranges", "correct-biases", "refine-rounding"])
def test_collecting_and_measuring_tell_their_progress(passes: str) -> None:
    model, samples, _ = case("gemm")
    told: list[str] = []
    shares: list[float] = []

    def hear(what: str, done: float) -> None:
        told.append(what)
        shares.append(done)

    watch = Watch(hear)
    evaluation = Evaluation(samples=Samples(samples, model))
    run_passes(model.copy(), f"{WEIGHTS},{passes}", evaluation=evaluation, observers=[watch])
    assert any(f"{passes}: what" in what and ", sample 24" in what for what in told), told
    assert f"{passes}: measuring 1 of 1 products" in told
    assert shares == sorted(shares)
    assert shares[-1] <= 1


@pytest.mark.parametrize("pass_", [SearchRanges(), Gptq(), RefineRounding(), CorrectBiases()])
def test_it_needs_samples_and_a_quantized_model(pass_: Any) -> None:
    model, samples, _ = case("matmul")
    with pytest.raises(PassError, match=r"no quantized products to mend .*not stored as integers"):
        run(model, pass_, samples)
    with pytest.raises(InputError, match="needs samples"):
        run(model, pass_)
    quantized, _ = run(model, QuantizeWeights())
    with pytest.raises(PassError, match="before quantization has no such product"):
        run(quantized, pass_, samples)


@pytest.mark.parametrize(("pass_", "options"), [(Gptq, {"damping": 0.0}), (RefineRounding, {"sweeps": 0})])
def test_options_are_checked(pass_: Any, options: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        pass_(**options)


def test_a_large_model_is_run_on_fewer_samples() -> None:
    model, samples, _ = case("matmul")
    found = Samples(samples, model)
    each = 2 * 40 * 48 * 24
    assert affordable(model, found, each * 10, 1) == 10
    assert affordable(model, found, each * 10, 12) == 12
    assert affordable(model, found, each * 1e6, 12) == len(samples)


def test_passes_share_what_products_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is run on the samples once, until the scales of its data are others."""
    model, samples, others = case("conv")
    runs: list[Any] = []

    def counted(*args: Any, **more: Any) -> list[Moments]:
        runs.append(args)
        return collect_moments(*args, **more)

    monkeypatch.setattr(mending, "collect_moments", counted)
    static = "quantize-static{per_channel=false weights=min-max}"
    plain, _ = run(model, static, samples)
    better, _ = run(model, f"{static},search-ranges,gptq,refine-rounding", samples)
    assert len(runs) == 1
    assert noise(model, better, others) < 0.95 * noise(model, plain, others)
    evaluation = Evaluation(samples=Samples(samples, model))
    for passes, wanted in ((static, 2), (static, 2), ("quantize-static{calibration=min-max}", 3)):
        run_passes(model.copy(), f"{passes},gptq", evaluation=evaluation)
        assert len(runs) == wanted
