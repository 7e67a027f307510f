"""The command line: `graphopt COMMAND`, one file per command."""

from __future__ import annotations

from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line on `args` (those of the process by default) and exit with its status."""
    from .app import main

    main(args)
