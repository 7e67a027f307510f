"""The table of the kernels that are slowest to generate, and names in it."""

from __future__ import annotations

from graphopt.profiling.code import Code, KernelCode, shortened


def kernel(function: str, seconds: float, *layers: str) -> KernelCode:
    return KernelCode(function, layers, "generic", seconds, 1500)


def test_the_slowest_come_first_and_long_names_are_cut() -> None:
    long = "fused" + "_add" * 40
    code = Code({"linking": 0.5}, (kernel("a", 1.0, "/a"), kernel(long, 3.0, "/b" * 50, "/c"), kernel("c", 2.0)))
    assert [one.seconds for one in code.slowest(2)] == [3.0, 2.0]
    text = code.kernels_table(2).to_text()
    assert "of 3 kernels, 6.00 s" in text
    assert f"{long[:45]}..." in text
    assert max(map(len, text.splitlines())) < 140
    assert "500 ms" in code.stages_table().to_text()


def test_labels_name_the_first_layer() -> None:
    assert shortened(()) == ""
    assert kernel("f", 1.0).label == "f"
    assert kernel("f", 1.0, "/a").label == "f (/a)"
    assert kernel("f", 1.0, "/a", "/b", "/c").label == "f (/a +2)"
