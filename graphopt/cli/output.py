"""Output of the commands: tables and sentences for people, JSON for machines, progress on stderr."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from graphopt.util.tables import Table

Progress = Callable[[str, float], None]
"""Called with the current activity and the completed share, from 0 to 1."""


_SECONDS_A_LINE = 5.0


class Output:
    """The output of one command. With `as_json`, stdout gets one JSON document and nothing else."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json

    def result(self, data: dict[str, Any]) -> None:
        """Print the result for machines; only with `--json`."""
        if self.as_json:
            json.dump(_finite(data), sys.stdout, indent=2, allow_nan=False)
            sys.stdout.write("\n")

    def line(self, text: str = "") -> None:
        """Print a sentence for people."""
        if not self.as_json:
            print(text)

    def note(self, text: str) -> None:
        """Print a side remark on stderr."""
        print(text, file=sys.stderr)

    def table(self, table: Table) -> None:
        """Print a table for people after an empty line; a table without rows is omitted."""
        if self.as_json or not table.rows:
            return
        print()
        if sys.stdout.isatty():
            _draw(table)
        else:
            print(table.to_text())

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show a progress bar on a terminal, or one line per step in a log."""
        if sys.stderr.isatty():
            with _progress_bar() as report:
                yield report
        else:
            yield _progress_lines()


def _finite(data: Any) -> Any:
    """Return the data with null for infinities and NaNs, which JSON lacks."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _draw(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(title=table.title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        drawn.add_column(column, justify="right" if column in table.right else "left")
    for row in table.rows:
        drawn.add_row(*row)
    Console(markup=False, highlight=False).print(drawn)


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, done: bar.update(task, description=what, completed=done)


def _progress_lines() -> Progress:
    last, stage, since = "", "", 0.0

    def report(what: str, done: float) -> None:
        """Print each new activity, but those that differ only in a number (of a sample) only every few seconds."""
        nonlocal last, stage, since
        now, counted = time.monotonic(), re.sub(r"\d+", "", what)
        if what == last or (counted == stage and now - since < _SECONDS_A_LINE):
            return
        last, stage, since = what, counted, now
        print(f"[{done:4.0%}] {what}", file=sys.stderr, flush=True)

    return report
