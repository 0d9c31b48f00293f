"""Tokens of calls between functions: JWT, HS256, one minute, bound to the function that is called.

Written by hand here, since the token path signs one every half minute and importing a JWT library would cost more than
its whole start. `http.service_calls` checks them by hand, too, and the tests hold both against PyJWT.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

__all__ = ["ServiceTokens"]

_SECONDS = 60
_RENEW_BEFORE = 30


class ServiceTokens:
    """Signs tokens for one audience, renewing them in time."""

    def __init__(self, secret: str, *, issuer: str, audience: str) -> None:
        self._secret = secret.encode()
        self._claims = {"iss": issuer, "aud": audience}
        self._token = ""
        self._expires = 0.0

    def token(self) -> str:
        """A token good for at least half a minute."""
        now = time.time()
        # One from later than now was signed before the clock was set back: nobody would take it yet.
        if not self._expires - _SECONDS <= now <= self._expires - _RENEW_BEFORE:
            self._expires = now + _SECONDS
            claims = {**self._claims, "iat": int(now), "exp": int(self._expires)}
            signed = _part({"alg": "HS256", "typ": "JWT"}) + b"." + _part(claims)
            signature = hmac.digest(self._secret, signed, hashlib.sha256)
            self._token = (signed + b"." + _encoded(signature)).decode()
        return self._token


def _part(value: dict[str, object]) -> bytes:
    return _encoded(json.dumps(value, separators=(",", ":")).encode())


def _encoded(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")
