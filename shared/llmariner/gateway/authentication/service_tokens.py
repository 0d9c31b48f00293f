"""Tokens for calls between functions: valid for one minute, with the called function as audience.

`http.authorization.service_calls` verifies them.
"""

from __future__ import annotations

import time

from llmariner.gateway.authentication.signed_tokens import sign

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
            self._token = sign({**self._claims, "iat": int(now), "exp": int(self._expires_at)}, self._secret)
        return self._token
