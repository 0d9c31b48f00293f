"""Bars of text."""

from __future__ import annotations

__all__ = ["bar"]

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(value: float, maximum: float, width: int) -> str:
    """A bar proportional to the maximum, in eighths of a character; any value above 0 is visible."""
    if not value or not maximum:
        return " "
    eighths = max(1, round(value / maximum * width * 8))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
