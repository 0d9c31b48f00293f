"""A cache of valid API keys and user tokens. The gateway polls the control plane for changed keys every two seconds.

A revoked key is therefore rejected within that interval plus one request. While the control plane is unavailable, cached
keys stay valid for a bounded time, and all others fail with Unavailable.
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
from llmariner.gateway.control_plane.port import ControlPlane, Key
from llmariner.gateway.single_flight import SingleFlight

__all__ = ["KeyCache", "bearer_token", "invalid_key", "is_jwt", "missing_scope", "sign_in_not_configured"]

_UNKNOWN_SECONDS = 2.0
_MAX_UNKNOWN = 10_000
# Of credentials and their keys: about ten thousand API keys.
_MAX_CACHED_BYTES = 16 * 1024 * 1024
_KEY_BYTES = 1024
# Of each model or network in a key.
_NAME_BYTES = 128


def bearer_token(authorization: bytes | None) -> str:
    """The token of an Authorization header. AuthenticationFailed when there is none."""
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
    """Whether a bearer token has the form of a user's JWT (RFC 7519), not of an API key. No signature is verified."""
    return token.startswith("ey") and token.count(".") == 2


def sign_in_not_configured() -> AuthenticationFailed:
    """The error for a user's token where no issuer is configured."""
    return AuthenticationFailed(
        "This platform has no issuer of tokens, so nobody signs in to it: use an API key.", code="invalid_token"
    )


def invalid_key() -> AuthenticationFailed:
    """The error for a key; it does not reveal which of the three reasons applies."""
    return AuthenticationFailed(
        "Incorrect API key provided: it is unknown, revoked or expired. Make one with `llma auth api-keys create`."
    )


def missing_scope(scope: str) -> PermissionDenied:
    """The error for a valid key without the required scope."""
    return PermissionDenied(f"This API key lacks the scope '{scope}' that this request needs.")


class KeyCache:
    """The keys of this process, by least recent use. `last_used`: Unix seconds of each key since the last report."""

    def __init__(self, control: ControlPlane, pepper: str, failed_attempts: FailedAttemptLimiter) -> None:
        self._control = control
        self._pepper = pepper.encode()
        self._failed_attempts = failed_attempts
        # By `_cache_key`: one entry per key and selection, however the header is written.
        self._cached: OrderedDict[bytes, Key] = OrderedDict()
        self._cached_bytes = 0
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._in_flight: SingleFlight[Key | None] = SingleFlight()
        self.last_used: dict[str, int] = {}

    def cached(self, headers: dict[bytes, bytes], scope: str) -> Key | None:
        """The cached key of a request, if it is valid and has the scope; None: call `authenticate`, which tells why."""
        # The lookup uses the raw header, which nearly always has the canonical form: parsing and hashing it would cost more
        # than the rest of the decision. `authenticate` handles the other forms.
        credentials = headers.get(b"authorization", b"")
        if b"openai-project" in headers or b"openai-organization" in headers:
            credentials = _cache_key(credentials, headers)
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
        self,
        headers: Mapping[bytes, bytes],
        scope: str,
        client_address: str | None = None,
        *,
        untrusted_proxy: bool = False,
    ) -> Key:
        """The key of a request, from the cache or the control plane.

        Raises AuthenticationFailed, PermissionDenied, Unavailable when the control plane does not answer, and RateLimited
        when too many attempts from `client_address` failed. `untrusted_proxy`: it is that of an untrusted proxy.
        """
        token = bearer_token(headers.get(b"authorization"))
        credentials = _cache_key(b"Bearer " + token.encode("latin-1"), headers)
        key = self._cached.get(credentials)
        if key is None:
            key = await self._look_up(credentials, token, headers, client_address, untrusted_proxy=untrusted_proxy)
        now = time.time()
        if key is None or (key.expires_at is not None and key.expires_at <= now):
            raise _sign_in_expired() if is_jwt(token) else invalid_key()
        if scope not in key.scopes:
            raise missing_scope(scope)
        self.last_used[key.id] = int(now)
        return key

    def invalidate(self, key_ids: tuple[str, ...]) -> None:
        """Drop these keys, and those of these users and projects, from the cache. Idempotent."""
        invalidated = set(key_ids)
        for credentials in [
            each
            for each, key in self._cached.items()
            if not invalidated.isdisjoint((key.id, key.user_id, key.project_id))
        ]:
            self._cached_bytes -= _estimated_size(credentials, self._cached.pop(credentials))
        self._unknown.clear()
        self._in_flight.invalidate()

    def invalidate_all(self) -> None:
        """Drop every key from the cache. Idempotent."""
        self._cached.clear()
        self._cached_bytes = 0
        self._unknown.clear()
        self._in_flight.invalidate()

    async def _look_up(
        self,
        credentials: bytes,
        token: str,
        headers: Mapping[bytes, bytes],
        client_address: str | None,
        *,
        untrusted_proxy: bool,
    ) -> Key | None:
        digest = hmac.digest(self._pepper, token.encode(), hashlib.sha256).hex()
        rejected_at = self._unknown.get(digest)
        now = time.monotonic()
        if rejected_at is not None and now - rejected_at < _UNKNOWN_SECONDS:
            return None
        self._failed_attempts.check(client_address, untrusted_proxy=untrusted_proxy)
        organization, project = _header_text(headers, b"openai-organization"), _header_text(headers, b"openai-project")
        if is_jwt(token):
            fetch = partial(self._control.authenticate_user, token, organization, project, client_address)
        else:
            fetch = partial(self._control.authenticate_key, digest, organization, project)
        generation = self._in_flight.generation
        try:
            key = await self._in_flight.do(credentials, fetch)
        except (AuthenticationFailed, PermissionDenied):
            self._failed_attempts.record_failure(client_address, untrusted_proxy=untrusted_proxy)
            raise
        if key is None:
            self._failed_attempts.record_failure(client_address, untrusted_proxy=untrusted_proxy)
        if generation != self._in_flight.generation:
            return key  # the key may have been revoked meanwhile, so it is not cached
        if key is not None:
            self._store(credentials, key)
            return key
        if len(self._unknown) >= _MAX_UNKNOWN:
            self._unknown.popitem(last=False)
        self._unknown[digest] = now
        return None

    def _store(self, credentials: bytes, key: Key) -> None:
        if (replaced := self._cached.pop(credentials, None)) is not None:
            self._cached_bytes -= _estimated_size(credentials, replaced)
        self._cached[credentials] = key
        self._cached_bytes += _estimated_size(credentials, key)
        while self._cached_bytes > _MAX_CACHED_BYTES:
            self._cached_bytes -= _estimated_size(*self._cached.popitem(last=False))


def _estimated_size(credentials: bytes, key: Key) -> int:
    """The approximate number of bytes of an entry: a key that lists a thousand models takes a hundred times another's."""
    names = len(key.models or ()) + len(key.denied_models) + len(key.own_models) + len(key.allowed_networks or ())
    names += 2 * len(key.aliases)
    return len(credentials) + _KEY_BYTES + names * _NAME_BYTES


def _sign_in_expired() -> AuthenticationFailed:
    return AuthenticationFailed(
        "Your sign-in is not accepted: it has expired. Sign in again with `llma auth login`.",
        code="token_expired",
        headers={"www-authenticate": 'Bearer error="invalid_token"'},
    )


def _cache_key(authorization: bytes, headers: Mapping[bytes, bytes]) -> bytes:
    """What determines the caller: the token, and the organization and project that the headers select."""
    organization, project = headers.get(b"openai-organization", b""), headers.get(b"openai-project", b"")
    return b"\n".join((authorization, organization, project)) if organization or project else authorization


def _header_text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    return headers[name].decode("latin-1") if headers.get(name) else None
