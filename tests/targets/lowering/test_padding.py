"""Padding by generated kernels, whose rows are split where the padding begins and ends."""

from __future__ import annotations

import pytest

from tests.targets.lowering.support import check_for_machine, noise


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", ["0, 1, 2, 0, 2, 1", "0, 2, 0, 1, 0, 0", "0, 0, 3, 0, 0, 0", "0, 0, -1, 0, 1, 2"])
def test_rows_and_columns(mode: str, pads: str) -> None:
    text = f"""g (float[2, 5, 37] x) => (float[A, B, C] z) <int64[6] p = {{{pads}}}>
        {{ y = Neg(x)  z = Pad <mode = "{mode}"> (y, p) }}"""
    check_for_machine(text, {"x": noise(2, 5, 37)}, tolerance=0)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_open_sizes(mode: str) -> None:
    text = (
        f"""g (float[N, M] x) => (float[A, B] z) <int64[4] p = {{1, 2, 0, 3}}> {{ z = Pad <mode = "{mode}"> (x, p) }}"""
    )
    check_for_machine(text, {"x": noise(2, 4)}, {"x": noise(9, 41)}, tolerance=0)
