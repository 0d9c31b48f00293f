"""Which keys, and tokens of people, are good. What was seen once is decided from memory; what changed is asked for every
two seconds.

So a revoked key is refused within that interval plus one question. When the control function is down, keys already known
stay good for a bounded time, and unknown ones are told that nobody can check them.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.gateway.authentication.failed_attempts import FailedAttemptLimiter
from llmariner.gateway.control_plane.port import Control, Key
from llmariner.gateway.single_flight import SingleFlight

__all__ = ["KeyCache", "bearer_token", "invalid_key", "is_jwt", "missing_scope", "sign_in_not_configured"]

_UNKNOWN_SECONDS = 2.0
_MAX_UNKNOWN = 10_000
# Of credentials and the keys they stand for; some ten thousand API keys.
_MAX_CACHED_BYTES = 16 * 1024 * 1024
_KEY_BYTES = 1024
# Of each model or network that a key names.
_NAME_BYTES = 128


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


def is_jwt(token: str) -> bool:
    """Whether a bearer secret has the form of a person's signed token (RFC 7519), and not of an API key."""
    return token.startswith("ey") and token.count(".") == 2


def sign_in_not_configured() -> AuthenticationFailed:
    """The refusal of a person's token where no issuer is configured."""
    return AuthenticationFailed(
        "This platform has no issuer of tokens, so nobody signs in to it: use an API key.", code="invalid_token"
    )


def invalid_key() -> AuthenticationFailed:
    """The refusal of a key; it does not say which of the three it is."""
    return AuthenticationFailed(
        "Incorrect API key provided: it is unknown, revoked or expired. Make one with `llma auth api-keys create`."
    )


def missing_scope(scope: str) -> PermissionDenied:
    """The refusal of a good key that may not do this."""
    return PermissionDenied(f"This API key lacks the scope '{scope}' that this request needs.")


class KeyCache:
    """Keys known to this process; of too many, those that were used last."""

    def __init__(self, control: Control, pepper: str, failed: FailedAttemptLimiter) -> None:
        self._control = control
        self._pepper = pepper.encode()
        self._failed = failed
        # By what `_credentials` says, of which there is one for each key and selection, however a header is written.
        self._cached: OrderedDict[bytes, Key] = OrderedDict()
        self._cached_bytes = 0
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._asking: SingleFlight[Key | None] = SingleFlight()
        self.last_used: dict[str, int] = {}

    def cached(self, head: Mapping[bytes, bytes], scope: str) -> Key | None:
        """The key of a request if this process knows it and it may do this; None says: ask `authenticate`."""
        # By the headers as they came, which is how nearly all are written: hashing for every request would cost more than
        # the rest of the decision. Those of another spelling find theirs in `authenticate`.
        credentials = head.get(b"authorization", b"")
        if b"openai-project" in head or b"openai-organization" in head:
            credentials = _cache_key(credentials, head)
        key = self._cached.get(credentials)
        if key is None or scope not in key.scopes:
            return None
        now = time.time()
        if key.expires_at is not None and key.expires_at <= now:
            return None
        self._cached.move_to_end(credentials)
        self.last_used[key.id] = int(now)
        return key

    async def authenticate(
        self, head: Mapping[bytes, bytes], scope: str, source: str | None = None, *, untrusted_proxy: bool = False
    ) -> Key:
        """The key of a request. AuthenticationFailed, PermissionDenied, or Unavailable when nobody can check it.

        RateLimited when too many unknown ones came from there. `source`: the caller's address; `forwarding`: it speaks for
        others, none of which can be told apart.
        """
        token = bearer_token(head.get(b"authorization"))
        credentials = _cache_key(b"Bearer " + token.encode("latin-1"), head)
        key = self._cached.get(credentials)
        if key is None:
            key = await self._look_up(credentials, token, head, source, untrusted_proxy=untrusted_proxy)
        now = time.time()
        if key is None or (key.expires_at is not None and key.expires_at <= now):
            raise _sign_in_expired() if is_jwt(token) else invalid_key()
        if scope not in key.scopes:
            raise missing_scope(scope)
        self.last_used[key.id] = int(now)
        return key

    def invalidate(self, key_ids: tuple[str, ...]) -> None:
        """Ask again about these keys, and those of these users and projects, when they next come."""
        gone = set(key_ids)
        for credentials in [
            each for each, key in self._cached.items() if not gone.isdisjoint((key.id, key.user_id, key.project_id))
        ]:
            self._cached_bytes -= _estimated_size(credentials, self._cached.pop(credentials))
        self._unknown.clear()
        self._asking.invalidate()

    def invalidate_all(self) -> None:
        """Ask again about every key."""
        self._cached.clear()
        self._cached_bytes = 0
        self._unknown.clear()
        self._asking.invalidate()

    async def _look_up(
        self, credentials: bytes, token: str, head: Mapping[bytes, bytes], source: str | None, *, untrusted_proxy: bool
    ) -> Key | None:
        digest = hmac.digest(self._pepper, token.encode(), hashlib.sha256).hex()
        rejected_at = self._unknown.get(digest)
        now = time.monotonic()
        if rejected_at is not None and now - rejected_at < _UNKNOWN_SECONDS:
            return None
        self._failed.check(source, untrusted_proxy=untrusted_proxy)
        organization, project = _text(head, b"openai-organization"), _text(head, b"openai-project")
        if is_jwt(token):
            ask = partial(self._control.person, token, organization, project, source)
        else:
            ask = partial(self._control.key, digest, organization, project)
        turn = self._asking.generation
        try:
            key = await self._asking.do(credentials, ask)
        except (AuthenticationFailed, PermissionDenied):
            self._failed.record_failure(source, untrusted_proxy=untrusted_proxy)
            raise
        if key is None:
            self._failed.record_failure(source, untrusted_proxy=untrusted_proxy)
        if turn != self._asking.generation:
            return key  # it may be revoked since: the next request asks again
        if key is not None:
            self._store(credentials, key)
            return key
        if len(self._unknown) >= _MAX_UNKNOWN:
            self._unknown.popitem(last=False)
        self._unknown[digest] = now
        return None

    def _store(self, credentials: bytes, key: Key) -> None:
        if (before := self._cached.pop(credentials, None)) is not None:
            self._cached_bytes -= _estimated_size(credentials, before)
        self._cached[credentials] = key
        self._cached_bytes += _estimated_size(credentials, key)
        while self._cached_bytes > _MAX_CACHED_BYTES:
            self._cached_bytes -= _estimated_size(*self._cached.popitem(last=False))


def _estimated_size(credentials: bytes, key: Key) -> int:
    """About how many bytes a key takes here: one that names a thousand models takes a hundred times another's."""
    names = len(key.models or ()) + len(key.refused_models) + len(key.own_models) + len(key.sources or ())
    return len(credentials) + _KEY_BYTES + names * _NAME_BYTES


def _sign_in_expired() -> AuthenticationFailed:
    return AuthenticationFailed(
        "Your sign-in is not accepted: it has expired. Sign in again with `llma auth login`.",
        code="token_expired",
        headers={"www-authenticate": 'Bearer error="invalid_token"'},
    )


def _cache_key(authorization: bytes, head: Mapping[bytes, bytes]) -> bytes:
    """What decides who calls: the secret, and the organisation and project that are selected with it."""
    organization, project = head.get(b"openai-organization", b""), head.get(b"openai-project", b"")
    return b"\n".join((authorization, organization, project)) if organization or project else authorization


def _text(head: Mapping[bytes, bytes], name: bytes) -> str | None:
    return head[name].decode("latin-1") if head.get(name) else None
