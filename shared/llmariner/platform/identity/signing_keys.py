"""The issuer's public keys, as this process knows them.

They are fetched anew when they are five minutes old, and once more when a token names one that is not among them: issuers
rotate. When the issuer does not answer, the known ones stay good for a bounded time
(`LLMARINER_OIDC_OUTAGE_SECONDS`), so that its outage is not ours.
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
"""From the end of a fetch to the next one, whatever keys tokens name and however often the issuer fails."""

MAX_WAIT_SECONDS = 2.0
"""So long after a fetch began others wait for it: anybody can name an unknown key, and each who waits holds a thread."""

_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


class SigningKeys:
    """Safe to share between threads. `fetch` returns JSON Web Keys, or raises DiscoveryError."""

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
        # Of the fetch under way, in real seconds.
        self._fetch_started_at: float | None = None

    def key(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key of that id for that algorithm; None when the issuer has none. Unavailable when nobody can tell."""
        if self._age() > REFRESH_AFTER_SECONDS:
            # Where old ones will do, one thread asks and the others go on.
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
            # A token that names no key is taken only where there is nothing to choose.
            if len(candidates) != 1:
                return None
            try:
                parsed = PyJWK(candidates[0], algorithm=algorithm)
            except PyJWKError:
                return None
            self._parsed[kid, algorithm] = parsed
        return parsed

    def _refresh(self, *, wait: bool) -> bool:
        """Whether the keys are newer than before; False within the cooldown, or while another thread asks for long."""
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
        """How long to wait for the fetch under way, in seconds."""
        started_at = self._fetch_started_at
        return MAX_WAIT_SECONDS if started_at is None else max(0.0, started_at + MAX_WAIT_SECONDS - time.monotonic())

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            f"Nobody can check your sign-in: the issuer of tokens does not answer ({self._failure or 'not yet'}). "
            "Try again shortly; API keys go on working.",
            headers={"retry-after": "10"},
        )


def _matches(key: dict[str, Any], algorithm: str) -> bool:
    """For signatures, of the kind that the algorithm takes, and not set aside for another algorithm."""
    return (
        key.get("kty") == _KEY_TYPES[algorithm[:2]]
        and key.get("use") in (None, "sig")
        and key.get("alg") in (None, algorithm)
    )
