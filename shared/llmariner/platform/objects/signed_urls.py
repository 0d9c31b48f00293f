"""Signed, expiring tokens for one object, where the store has no URLs of its own: `functions/files` serves them.

A token is `<payload>.<signature>` in base64url: JSON with key, expiry and what the response says, and its HMAC-SHA256 under
the service secret. Its holder may do that one thing until it expires, without a key of the platform.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from dataclasses import dataclass

from llmariner.environment import Secret
from llmariner.platform.objects import check_key, check_range

__all__ = ["DownloadToken", "InvalidToken", "UploadToken", "read_token", "sign_download", "sign_upload"]

_LONGEST_SECONDS = 7 * 24 * 3600
_LONGEST = 8192
# The service secret signs calls between functions as well: no signature is valid for both.
_PURPOSE = b"llmariner.objects.signed-urls.v1\0"


class InvalidToken(Exception):
    """The token was not made by this platform, was changed, or has expired."""


@dataclass(frozen=True)
class DownloadToken:
    """Its holder may read the object, as a download with that name and type."""

    key: str
    file_name: str
    content_type: str


@dataclass(frozen=True)
class UploadToken:
    """Its holder may write the object, with exactly that number of bytes."""

    key: str
    size: int


def sign_download(secret: Secret, key: str, *, seconds: int, file_name: str, content_type: str) -> str:
    """A token to read an object for 1 second to 7 days. Raises ValueError for another time or no valid key."""
    return _sign(secret, {"get": check_key(key), "name": file_name, "type": content_type}, seconds)


def sign_upload(secret: Secret, key: str, *, seconds: int, size: int) -> str:
    """A token to write an object of exactly `size` bytes. Raises ValueError as `sign_download`."""
    check_range(0, size)
    return _sign(secret, {"put": check_key(key), "size": size}, seconds)


def read_token(secret: Secret, token: str) -> DownloadToken | UploadToken:
    """What a token allows now. Raises InvalidToken."""
    payload, _, signature = token.partition(".")
    if len(token) > _LONGEST or not token.isascii():
        raise InvalidToken("The URL is not valid: use it as it was given to you.")
    if not hmac.compare_digest(_signature(secret, payload), signature):
        raise InvalidToken("The URL is not valid: use it as it was given to you.")
    found = json.loads(_decoded(payload))
    if found["until"] < time.time():
        raise InvalidToken("The URL has expired: ask for another one.")
    if "put" in found:
        return UploadToken(found["put"], found["size"])
    return DownloadToken(found["get"], found["name"], found["type"])


def _sign(secret: Secret, claims: dict[str, str | int], seconds: int) -> str:
    if not 1 <= seconds <= _LONGEST_SECONDS:
        raise ValueError(f"A signed URL is valid for 1 to {_LONGEST_SECONDS} seconds, not {seconds}.")
    text = json.dumps({**claims, "until": int(time.time()) + seconds}, separators=(",", ":"))
    payload = _encoded(text.encode())
    token = f"{payload}.{_signature(secret, payload)}"
    if len(token) > _LONGEST:
        raise ValueError("The name or the type is too long for a URL.")
    return token


def _signature(secret: Secret, payload: str) -> str:
    return _encoded(hmac.digest(secret.reveal().encode(), _PURPOSE + payload.encode(), hashlib.sha256))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise InvalidToken("The URL is not valid: use it as it was given to you.") from error
