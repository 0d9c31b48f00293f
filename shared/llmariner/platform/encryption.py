"""Secrets that must be read again, encrypted in the database.

Each value has a random key of its own (AES-256-GCM), which is encrypted with a key derived from the installation's secret:
so another secret of the installation needs to encrypt short keys only. Nonces are random.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence

from llmariner.settings import Secret

__all__ = ["Encryption", "Undecipherable"]

_NONCE_BYTES = 12
_KEY_BYTES = 32


class Undecipherable(Exception):
    """The value was encrypted with a secret that the installation does not have any more, or for another place."""


class Encryption:
    """`secrets`: the first encrypts, each of them decrypts. `purpose`: each has its own keys.

    The `place` of a value is where it stands, such as a row's key: a value that was moved elsewhere is Undecipherable.
    """

    def __init__(self, secrets: Sequence[Secret], purpose: str) -> None:
        derived = [
            hmac.digest(each.reveal().encode(), f"encryption of {purpose}".encode(), "sha256") for each in secrets
        ]
        self._keys = {hashlib.sha256(b"id of " + key).hexdigest()[:16]: key for key in derived}
        self.key_id = next(iter(self._keys))
        """Names the key that encrypts now."""

    def encrypt(self, value: str, place: str) -> str:
        """The encrypted text, in ASCII."""
        key = os.urandom(_KEY_BYTES)
        parts = (_seal(self._keys[self.key_id], key, place), _seal(key, value.encode(), place))
        return ".".join((self.key_id, *(base64.b64encode(part).decode() for part in parts)))

    def decrypt(self, text: str, place: str) -> str:
        """The value. Raises Undecipherable."""
        key_id, _, parts = text.partition(".")
        if (outer := self._keys.get(key_id)) is None:
            raise Undecipherable("it was encrypted with another secret")
        wrapped, sealed = (base64.b64decode(part) for part in parts.split("."))
        return _open(_open(outer, wrapped, place), sealed, place).decode()

    def renewed(self, text: str, place: str) -> str:
        """The same value, its key encrypted with the key of now. Raises Undecipherable."""
        key_id, wrapped, sealed = text.split(".")
        if key_id not in self._keys:
            raise Undecipherable("it was encrypted with another secret")
        key = _open(self._keys[key_id], base64.b64decode(wrapped), place)
        renewed = base64.b64encode(_seal(self._keys[self.key_id], key, place)).decode()
        return f"{self.key_id}.{renewed}.{sealed}"


def _seal(key: bytes, value: bytes, place: str) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, value, place.encode())


def _open(key: bytes, sealed: bytes, place: str) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
    except InvalidTag as error:
        raise Undecipherable("it is no value of this place") from error
