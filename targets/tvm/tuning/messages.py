"""What is worth telling of TVM's long error messages."""

from __future__ import annotations


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
