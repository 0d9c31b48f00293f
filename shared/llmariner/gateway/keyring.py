"""Which keys are good. A key seen once is decided from memory; what changed is asked for every two seconds.

So a revoked key is refused within that interval plus one question. When the control function is down, keys already known
stay good for a bounded time, and unknown ones are told that nobody can check them.
"""

from __future__ import annotations

import hashlib
import hmac
import time

from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.gateway.control import Control, Key

__all__ = ["Keyring", "bearer_token"]

_UNKNOWN_SECONDS = 2.0
_MOST_UNKNOWN = 10_000


def bearer_token(authorization: bytes | None) -> str:
    """The secret of an Authorization header. AuthenticationFailed when there is none."""
    if not authorization:
        raise AuthenticationFailed(
            "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'.",
            headers={"www-authenticate": "Bearer"},
        )
    scheme, _, token = authorization.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthenticationFailed("The Authorization header must be 'Bearer YOUR_KEY'.")
    return token.strip()


class Keyring:
    """Keys known to this process."""

    def __init__(self, control: Control, pepper: str) -> None:
        self._control = control
        self._pepper = pepper.encode()
        self._known: dict[str, Key] = {}
        self._unknown: dict[str, float] = {}
        self.last_used: dict[str, int] = {}

    async def authenticate(self, authorization: bytes | None, scope: str) -> Key:
        """The key of a request. AuthenticationFailed, PermissionDenied, or Unavailable when nobody can check it."""
        token = bearer_token(authorization)
        digest = hmac.digest(self._pepper, token.encode(), hashlib.sha256).hex()
        key = self._known.get(digest) or await self._asked(digest)
        now = time.time()
        if key is None or (key.expires_at is not None and key.expires_at <= now):
            raise AuthenticationFailed(
                "Incorrect API key provided: it is unknown, revoked or expired. Make one with `llma auth api-keys create`."
            )
        if scope not in key.scopes:
            raise PermissionDenied(f"This API key lacks the scope '{scope}' that this request needs.")
        self.last_used[key.id] = int(now)
        return key

    def forget(self, key_ids: tuple[str, ...]) -> None:
        """Ask again about these keys when they next come."""
        gone = set(key_ids)
        for digest in [digest for digest, key in self._known.items() if key.id in gone]:
            del self._known[digest]
        self._unknown.clear()

    def forget_all(self) -> None:
        """Ask again about every key."""
        self._known.clear()
        self._unknown.clear()

    async def _asked(self, digest: str) -> Key | None:
        asked_at = self._unknown.get(digest)
        now = time.monotonic()
        if asked_at is not None and now - asked_at < _UNKNOWN_SECONDS:
            return None
        key = await self._control.key(digest)
        if key is not None:
            self._known[digest] = key
            return key
        if len(self._unknown) >= _MOST_UNKNOWN:
            self._unknown.clear()
        self._unknown[digest] = now
        return None
