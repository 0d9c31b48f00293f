"""API key secrets: made from random bits, shown once, kept only as a keyed hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string

from llmariner.settings import Secret

__all__ = ["digest", "mask", "new_secret"]

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 48
_SHOWN = 7


def new_secret() -> str:
    """`sk-` and 48 random characters (285 bits)."""
    return "sk-" + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def digest(pepper: Secret, secret: str) -> str:
    """HMAC-SHA256 under the installation's pepper, in hex: a stolen database alone verifies nothing."""
    return hmac.new(pepper.reveal().encode(), secret.encode(), hashlib.sha256).hexdigest()


def mask(secret: str) -> str:
    """What is shown of a secret ever after: enough to recognise it by."""
    return f"{secret[:_SHOWN]}…{secret[-2:]}"
