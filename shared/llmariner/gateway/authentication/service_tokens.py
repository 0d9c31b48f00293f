"""Tokens for calls between functions: JWT, HS256, valid for one minute, with the called function as audience.

This module implements JWT itself, because importing a JWT library would cost more than the whole start of the token path.
`http.authorization.service_calls` verifies the tokens; the tests check both against PyJWT.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

__all__ = ["ServiceTokens"]

_LIFETIME_SECONDS = 60
_RENEW_BEFORE_SECONDS = 30


class ServiceTokens:
    """Signs tokens for one audience, and renews them before they expire."""

    def __init__(self, secret: str, *, issuer: str, audience: str) -> None:
        self._secret = secret.encode()
        self._claims = {"iss": issuer, "aud": audience}
        self._token = ""
        self._expires_at = 0.0

    def token(self) -> str:
        """A token that is valid for at least half a minute."""
        now = time.time()
        # A token issued in the future was signed before the clock was set back, and would be rejected.
        if not self._expires_at - _LIFETIME_SECONDS <= now <= self._expires_at - _RENEW_BEFORE_SECONDS:
            self._expires_at = now + _LIFETIME_SECONDS
            claims = {**self._claims, "iat": int(now), "exp": int(self._expires_at)}
            signed = _json_segment({"alg": "HS256", "typ": "JWT"}) + b"." + _json_segment(claims)
            signature = hmac.digest(self._secret, signed, hashlib.sha256)
            self._token = (signed + b"." + _base64url(signature)).decode()
        return self._token


def _json_segment(value: dict[str, object]) -> bytes:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")
