"""The comparison of call overheads: that it runs, on models that compute the same here and in ONNX Runtime."""

from __future__ import annotations

from tools import overhead


def test_the_smallest_model_is_compared():
    models = overhead.tiny_models()
    assert list(models) == ["add", "dense", "40 dense", "demo"]
    assert all(seconds > 0 for seconds in overhead.compare(models["add"], rounds=2))


def test_rounds_alternate_and_the_median_is_of_one_call():
    calls: list[str] = []
    overhead.medians(lambda: calls.append("a"), lambda: calls.append("b"), 3)
    assert calls == [*"a" * 20, *"b" * 20] * 3
