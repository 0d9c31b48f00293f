"""Secrets of API keys, invitations and clusters: random, returned once, stored only as a keyed hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string

from llmariner.settings import Secret

__all__ = [
    "REGISTRATION_KEY_PREFIX",
    "digest",
    "mask",
    "new_admin_secret",
    "new_registration_key",
    "new_secret",
    "new_token",
]

REGISTRATION_KEY_PREFIX = "clusterkey-"

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 48
_SHOWN_CHARACTERS = 4


def new_secret() -> str:
    """`sk-` and 48 random characters (285 bits)."""
    return "sk-" + _random()


def new_admin_secret() -> str:
    """Of an admin key: `sk-admin-` and 48 random characters."""
    return "sk-admin-" + _random()


def new_token() -> str:
    """Of an invitation: `inv-` and 48 random characters."""
    return "inv-" + _random()


def new_registration_key() -> str:
    """Of a cluster: `clusterkey-` and 48 random characters."""
    return REGISTRATION_KEY_PREFIX + _random()


def digest(pepper: Secret, secret: str) -> str:
    """HMAC-SHA256 under the installation's pepper, in hex: a copy of the database alone cannot verify a secret."""
    return hmac.new(pepper.reveal().encode(), secret.encode(), hashlib.sha256).hexdigest()


def mask(secret: str) -> str:
    """The displayed form of a secret: its prefix and enough characters to recognize it."""
    return f"{secret[: secret.rfind('-') + 1 + _SHOWN_CHARACTERS]}…{secret[-2:]}"


def _random() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
