"""Secrets of API keys and invitations: made from random bits, shown once, kept only as a keyed hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string

from llmariner.settings import Secret

__all__ = ["digest", "mask", "new_admin_secret", "new_secret", "new_token"]

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 48
_SHOWN_CHARACTERS = 4


def new_secret() -> str:
    """`sk-` and 48 random characters (285 bits)."""
    return "sk-" + _random()


def new_admin_secret() -> str:
    """Of a key of the kind 'admin': `sk-admin-` and as many."""
    return "sk-admin-" + _random()


def new_token() -> str:
    """Of an invitation: `inv-` and as many."""
    return "inv-" + _random()


def digest(pepper: Secret, secret: str) -> str:
    """HMAC-SHA256 under the installation's pepper, in hex: a stolen database alone verifies nothing."""
    return hmac.new(pepper.reveal().encode(), secret.encode(), hashlib.sha256).hexdigest()


def mask(secret: str) -> str:
    """What is shown of a secret ever after: its prefix and enough to recognise it by."""
    return f"{secret[: secret.rfind('-') + 1 + _SHOWN_CHARACTERS]}…{secret[-2:]}"


def _random() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
