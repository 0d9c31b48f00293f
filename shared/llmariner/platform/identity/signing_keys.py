"""This process's cache of the issuer's signing keys.

The keys are fetched again when they are five minutes old, and when a token names a key that is not cached, since issuers
rotate keys. While the issuer does not respond, the cached keys are valid for `LLMARINER_OIDC_OUTAGE_SECONDS`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from jwt import PyJWK
from jwt.exceptions import PyJWKError

from llmariner.errors import Unavailable
from llmariner.platform.identity.discovery import DiscoveryError

__all__ = ["COOLDOWN_SECONDS", "MAX_WAIT_SECONDS", "REFRESH_AFTER_SECONDS", "SigningKeys"]

REFRESH_AFTER_SECONDS = 300.0
COOLDOWN_SECONDS = 10.0
"""The minimum time from the end of a fetch to the next one."""

MAX_WAIT_SECONDS = 2.0
"""Threads wait for a running fetch until this time after its start: anyone can name an unknown key, and each waiting
request occupies a thread."""

_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


class SigningKeys:
    """A cache of signing keys, safe to share between threads. `fetch` returns JSON Web Keys or raises DiscoveryError."""

    def __init__(
        self,
        fetch: Callable[[], list[dict[str, Any]]],
        outage_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._outage_seconds = outage_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: list[dict[str, Any]] = []
        self._parsed: dict[tuple[str | None, str], PyJWK] = {}
        self._fetched_at: float | None = None
        self._last_attempt_at: float | None = None
        self._failure = ""
        # Of the running fetch, by the monotonic clock.
        self._fetch_started_at: float | None = None

    def key(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key with that id for that algorithm; None when the issuer has none. Unavailable when keys can't be fetched."""
        if self._age() > REFRESH_AFTER_SECONDS:
            # While the cached keys are valid, one thread fetches and the others do not wait.
            self._refresh(wait=self._age() > self._outage_seconds)
        if self._age() > self._outage_seconds:
            raise self._unavailable()
        found = self._find(kid, algorithm)
        if found is None and self._refresh(wait=True):
            found = self._find(kid, algorithm)
        if found is None and (self._failure or self._fetch_started_at is not None):
            raise self._unavailable()
        return found

    def _find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        parsed = self._parsed.get((kid, algorithm))
        if parsed is None:
            candidates = [
                key for key in self._keys if _matches(key, algorithm) and (kid is None or key.get("kid") == kid)
            ]
            # A token without a key id is accepted only where a single key matches.
            if len(candidates) != 1:
                return None
            try:
                parsed = PyJWK(candidates[0], algorithm=algorithm)
            except PyJWKError:
                return None
            self._parsed[kid, algorithm] = parsed
        return parsed

    def _refresh(self, *, wait: bool) -> bool:
        """Fetch the keys; False within the cooldown, after a failure, or when the fetch of another thread takes too long."""
        before = self._fetched_at
        if not self._lock.acquire(timeout=self._remaining_wait() if wait else 0):
            return False
        try:
            if self._fetched_at != before:
                return True
            if self._last_attempt_at is not None and self._clock() - self._last_attempt_at < COOLDOWN_SECONDS:
                return False
            self._fetch_started_at = time.monotonic()
            try:
                keys = self._fetch()
            except DiscoveryError as error:
                self._failure = str(error)
                return False
            finally:
                self._fetch_started_at, self._last_attempt_at = None, self._clock()
            self._keys, self._parsed, self._fetched_at, self._failure = keys, {}, self._clock(), ""
            return True
        finally:
            self._lock.release()

    def _remaining_wait(self) -> float:
        """How long to wait for the running fetch, in seconds."""
        started_at = self._fetch_started_at
        return MAX_WAIT_SECONDS if started_at is None else max(0.0, started_at + MAX_WAIT_SECONDS - time.monotonic())

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            f"Nobody can check your sign-in: the issuer of tokens does not answer ({self._failure or 'not yet'}). "
            "Try again shortly; API keys continue to work.",
            headers={"retry-after": "10"},
        )


def _matches(key: dict[str, Any], algorithm: str) -> bool:
    """Whether it is a signing key of the algorithm's key type that is not reserved for another algorithm."""
    return (
        key.get("kty") == _KEY_TYPES[algorithm[:2]]
        and key.get("use") in (None, "sig")
        and key.get("alg") in (None, algorithm)
    )
