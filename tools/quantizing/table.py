"""The table of the guide: for each network and tool the accuracy, what was lost of it, and the size of the file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from tools.quantizing.networks import NETWORKS

FLOAT = "float32"
Row = dict[str, Any]
_END = "<!-- end -->"
_NORMAL = 1.96
"""How many standard deviations around a mean 95 % of a normal distribution lie within."""


def table(rows: Sequence[Row]) -> str:
    """Return Markdown; the setting that is best on other images than those of the test stands for a tool.

    "lost" has its 95 % interval. "other answers" counts the images that get another class than from the float network,
    and "SQNR" says how far the logits are from its own: both are less a matter of luck than what is lost.
    """
    lines = [
        "| network | quantized by | accuracy | lost | other answers | SQNR | size of the file | best setting |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, network in NETWORKS.items():
        mine = [row for row in rows if row["network"] == name and "error" not in row]
        whole = next((row for row in mine if row["kind"] == FLOAT), None)
        if whole is None:
            continue
        lines.append(f"| {network.title} | (float32) | {whole['accuracy']:.2f} % | | | | {whole['bytes']:,} bytes | |")
        for kind in dict.fromkeys(row["kind"] for row in mine if row is not whole):
            best = next(row for row in mine if row["kind"] == kind and "accuracy" in row)
            size = best["bytes"] / whole["bytes"]
            facts = f"{best['changed']} | {best['decibels']:.1f} dB | {size:.1%} | {_setting(mine, best)}"
            lines.append(f"| | {kind} | {best['accuracy']:.2f} % | {_lost(best)} | {facts} |")
    return "\n".join(lines) + "\n"


def _lost(row: Row) -> str:
    """Return the points of accuracy that were lost, and half of their 95 % interval.

    Only images whose answer became wrong or right tell anything. Alan Agresti and Yongyi Min, "Simple improved
    confidence intervals for comparing matched proportions" (2005): half an image is added to each of four counts.
    """
    count, apart = row["images"], row["worse"] - row["better"]
    deviation = math.sqrt(row["worse"] + row["better"] + 1 - apart * apart / (count + 2)) / (count + 2)
    return f"{100 * apart / count:.2f} ± {100 * _NORMAL * deviation:.2f}"


def best_of(rows: Sequence[Row]) -> Row | None:
    """Return the row that is best on the images that choose; of several, that with the fewest other answers there."""
    able = [row for row in rows if "error" not in row]
    return max(able, key=lambda row: (row["choosing accuracy"], -row["choosing changed"]), default=None)


def _setting(rows: Sequence[Row], best: Row) -> str:
    count = sum(row["kind"] == best["kind"] for row in rows)
    return f"{best['settings']} (of {count})" if count > 1 else str(best["settings"])


def replace_table(text: str, new: str, tool: str = "tools/quantization_accuracy.py") -> str:
    """Return a guide with the table of a tool, between two comments, replaced. Raises ValueError if there is none."""
    start = f"<!-- made by {tool} -->"
    place = re.compile(f"{re.escape(start)}.*?{re.escape(_END)}", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"the guide has no place for the table: {start} {_END}")
    return place.sub(lambda _: f"{start}\n{new}{_END}", text)
