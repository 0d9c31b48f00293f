"""Normalization of e-mail addresses, for comparison of those from issuers with those that administrators enter."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["INVISIBLE_CHARACTERS", "normalize_email"]

MAX_LENGTH = 254
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")
INVISIBLE_CHARACTERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Printable characters that are invisible (Unicode's Default_Ignorable_Code_Point, and the empty Braille pattern)."""


def normalize_email(address: str) -> str | None:
    """Return the address in lower case; None for an invalid address.

    An address that is not in Unicode's form NFKC is invalid: lowercasing turns the Kelvin sign into a `k`, and other
    programs turn a full-width `a` into an `a`, so that two mailboxes would be one user. So is an address that begins with
    `system:`, as the names of service accounts do, which take the place of an address in the audit log.
    """
    found = address.strip()
    plain = found.isprintable() and unicodedata.is_normalized("NFKC", found) and not INVISIBLE_CHARACTERS.search(found)
    if len(found) > MAX_LENGTH or not plain or not _ADDRESS.fullmatch(found) or found.lower().startswith("system:"):
        return None
    return found.lower()
