"""The table of published networks: what was compared, with which options, and whether it suffices."""

from __future__ import annotations

from typing import Any

from tools.quantized_models import table


def row(**facts: Any) -> dict[str, Any]:
    plain = {"model": "magika", "what": "files with the same type", "passes": "quantize", "max_drop": None}
    figures = {"inputs": 300, "alike": 0.9867, "needed": 0.98, "integers": 1.0, "bytes": 27, "floats": 100}
    return {**plain, **figures, **facts}


def test_a_row_says_with_which_options_a_network_was_quantized() -> None:
    found = table([row(), row(model="efficientnet-lite0", max_drop="0.6%", passes="quantize,mend", integers=0.75)])
    lines = found.splitlines()[2:]
    assert lines == [
        "| efficientnet-lite0 | `--passes quantize,mend --max-drop 0.6%` | 300 files with the same type"
        " | 98.7% | 98% | 75.0% | 27.0% |",
        "| magika | no option | 300 files with the same type | 98.7% | 98% | 100.0% | 27.0% |",
    ]


def test_cosines_are_not_percentages() -> None:
    assert "| 0.9867 | 0.98 |" in table([row(model="minilm-int8", what="cosine of the sentences' vectors")])
