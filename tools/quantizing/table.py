"""The table of the guide: for each network and tool the accuracy, what was lost of it, and the size of the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tools.quantizing.networks import NETWORKS

FLOAT = "float32"
Row = dict[str, Any]
_END = "<!-- end -->"


def table(rows: Sequence[Row]) -> str:
    """Return Markdown; each tool's best setting stands for it.

    "other answers" counts the images that get another class than from the float network, and "SQNR" says how far the
    logits are from its own: both are less a matter of luck than how many of the changes are for the worse.
    """
    lines = [
        "| network | quantized by | accuracy | lost | other answers | SQNR | size of the file | best setting |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, network in NETWORKS.items():
        mine = [row for row in rows if row["network"] == name and "accuracy" in row]
        whole = next((row for row in mine if row["kind"] == FLOAT), None)
        if whole is None:
            continue
        lines.append(f"| {network.title} | (float32) | {whole['accuracy']:.2f} % | | | | {whole['bytes']:,} bytes | |")
        for kind in dict.fromkeys(row["kind"] for row in mine if row is not whole):
            best = best_of(mine, kind)
            lost, size = whole["accuracy"] - best["accuracy"], best["bytes"] / whole["bytes"]
            facts = (
                f"{best['accuracy']:.2f} % | {lost:.2f} | {best['changed']} | {best['decibels']:.1f} dB | {size:.1%}"
            )
            lines.append(f"| | {kind} | {facts} | {_setting(mine, best)} |")
    return "\n".join(lines) + "\n"


def best_of(rows: Sequence[Row], kind: str) -> Row:
    """Return the most accurate row of a kind; of several, that with the fewest other answers."""
    return max((row for row in rows if row["kind"] == kind), key=lambda row: (row["accuracy"], -row["changed"]))


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
