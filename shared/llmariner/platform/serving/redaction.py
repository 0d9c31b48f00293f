"""Removes file system paths from output of engines and downloads before users see it."""

from __future__ import annotations

import re

__all__ = ["redact_paths"]

# A quoted path may contain spaces.
_QUOTED = re.compile(r"""(["'`])[^"'`\n]*[/\\][^"'`\n]*\1""")
_BARE = re.compile(r"\S*[/\\]\S*")
_REPLACEMENT = "[path]"


def redact_paths(text: str) -> str:
    """The text with `[path]` for each word that may be a path, including URLs and names with a slash."""
    return _BARE.sub(_REPLACEMENT, _QUOTED.sub(_REPLACEMENT, text))
