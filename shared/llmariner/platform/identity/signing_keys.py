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
from llmariner.platform.identity.discovery import Unreachable

__all__ = ["COOLDOWN_SECONDS", "FRESH_SECONDS", "WAIT_SECONDS", "SigningKeys"]

FRESH_SECONDS = 300.0
COOLDOWN_SECONDS = 10.0
"""From the end of a fetch to the next one, whatever keys tokens name and however often the issuer fails."""

WAIT_SECONDS = 2.0
"""So long after a fetch began others wait for it: anybody can name an unknown key, and each who waits holds a thread."""

_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


class SigningKeys:
    """Safe to share between threads. `fetch` returns JSON Web Keys, or raises Unreachable."""

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
        self._made: dict[tuple[str | None, str], PyJWK] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._failure = ""
        # Of the fetch under way, in real seconds.
        self._began_at: float | None = None

    def key(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key of that id for that algorithm; None when the issuer has none. Unavailable when nobody can tell."""
        if self._age() > FRESH_SECONDS:
            # Where old ones will do, one thread asks and the others go on.
            self._refresh(wait=self._age() > self._outage_seconds)
        if self._age() > self._outage_seconds:
            raise self._unavailable()
        found = self._known(kid, algorithm)
        if found is None and self._refresh(wait=True):
            found = self._known(kid, algorithm)
        if found is None and (self._failure or self._began_at is not None):
            raise self._unavailable()
        return found

    def _known(self, kid: str | None, algorithm: str) -> PyJWK | None:
        made = self._made.get((kid, algorithm))
        if made is None:
            fitting = [key for key in self._keys if _fits(key, algorithm) and (kid is None or key.get("kid") == kid)]
            # A token that names no key is taken only where there is nothing to choose.
            if len(fitting) != 1:
                return None
            try:
                made = PyJWK(fitting[0], algorithm=algorithm)
            except PyJWKError:
                return None
            self._made[kid, algorithm] = made
        return made

    def _refresh(self, *, wait: bool) -> bool:
        """Whether the keys are newer than before; False within the cooldown, or while another thread asks for long."""
        before = self._fetched_at
        if not self._lock.acquire(timeout=self._patience() if wait else 0):
            return False
        try:
            if self._fetched_at != before:
                return True
            if self._tried_at is not None and self._clock() - self._tried_at < COOLDOWN_SECONDS:
                return False
            self._began_at = time.monotonic()
            try:
                keys = self._fetch()
            except Unreachable as error:
                self._failure = str(error)
                return False
            finally:
                self._began_at, self._tried_at = None, self._clock()
            self._keys, self._made, self._fetched_at, self._failure = keys, {}, self._clock(), ""
            return True
        finally:
            self._lock.release()

    def _patience(self) -> float:
        """How long to wait for the fetch under way, in seconds."""
        began_at = self._began_at
        return WAIT_SECONDS if began_at is None else max(0.0, began_at + WAIT_SECONDS - time.monotonic())

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            f"Nobody can check your sign-in: the issuer of tokens does not answer ({self._failure or 'not yet'}). "
            "Try again shortly; API keys go on working.",
            headers={"retry-after": "10"},
        )


def _fits(key: dict[str, Any], algorithm: str) -> bool:
    """For signatures, of the kind that the algorithm takes, and not set aside for another algorithm."""
    return (
        key.get("kty") == _KINDS[algorithm[:2]]
        and key.get("use") in (None, "sig")
        and key.get("alg") in (None, algorithm)
    )
