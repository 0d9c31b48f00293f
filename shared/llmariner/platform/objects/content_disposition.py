"""The Content-Disposition header of a download: https://www.rfc-editor.org/rfc/rfc6266."""

from __future__ import annotations

import re
from urllib.parse import quote

__all__ = ["attachment"]

# The URL that is signed for a download contains the name, percent-encoded twice, and servers limit the length of URLs.
_LONGEST = 120


def attachment(file_name: str) -> str:
    """The header's value with which a browser saves the content under that name, and never shows it.

    Takes any text: of a long name, its end. The result is ASCII.
    """
    name = file_name[-_LONGEST:]
    plain = re.sub(r"[^A-Za-z0-9 ._()-]", "_", name)
    encoded = quote(name.encode(errors="replace"), safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
