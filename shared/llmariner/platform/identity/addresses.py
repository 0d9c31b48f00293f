"""E-mail addresses in the one form in which they are compared: what an issuer says, and what administrators type."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["INVISIBLE_CHARACTERS", "normalize_email"]

MAX_LENGTH = 254
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")
INVISIBLE_CHARACTERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Printable characters that nobody sees (Unicode's Default_Ignorable_Code_Point, and the empty Braille pattern)."""


def normalize_email(said: str) -> str | None:
    """An address in lower case; None for what is none.

    Only addresses in Unicode's form NFKC are taken: lower case makes a `k` of the Kelvin sign, and other programs make an
    `a` of a full-width one, so that another mailbox would be the same person. Nor is one that begins like the name of a
    service account, which stands where people have an address, in the audit log too.
    """
    found = said.strip()
    plain = found.isprintable() and unicodedata.is_normalized("NFKC", found) and not INVISIBLE_CHARACTERS.search(found)
    if len(found) > MAX_LENGTH or not plain or not _ADDRESS.fullmatch(found) or found.lower().startswith("system:"):
        return None
    return found.lower()
