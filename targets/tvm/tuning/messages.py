"""Extraction of the relevant part of TVM's long error messages."""

from __future__ import annotations


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
