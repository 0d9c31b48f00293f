"""What may be told to everybody of what engines and downloads print: it names folders of the machine that they run on."""

from __future__ import annotations

import re

__all__ = ["redact_paths"]

# What is quoted may hold spaces.
_QUOTED = re.compile(r"""(["'`])[^"'`\n]*[/\\][^"'`\n]*\1""")
_BARE = re.compile(r"\S*[/\\]\S*")
_REPLACEMENT = "[path]"


def redact_paths(text: str) -> str:
    """The text with `[path]` for every word that could be one: URLs, and names that hold a slash, too."""
    return _BARE.sub(_REPLACEMENT, _QUOTED.sub(_REPLACEMENT, text))
