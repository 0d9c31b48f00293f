"""Readiness of a function: not ready while the database's schema does not match its code."""

from __future__ import annotations

import logging
import threading
import time

from llmariner.context import Context
from llmariner.errors import PlatformError, Unavailable
from llmariner.platform.database.schema import schema_mismatch

__all__ = ["Readiness"]

_log = logging.getLogger(__name__)
# Knative probes every 50 ms while a pod starts.
_RETRY_SECONDS = 1.0


class Readiness:
    """Checks the schema until it matches, and then never again: migrations only add to a schema."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._schema_matches = False
        self._reason: str | None = None
        self._checked_at = -_RETRY_SECONDS

    def check(self) -> None:
        """Raises Unavailable, with the reason, while the function is not ready. Thread-safe.

        An unreachable database does not make it unready: requests then fail at once with the cause, and do not wait.
        """
        with self._lock:
            if not self._schema_matches and time.monotonic() - self._checked_at >= _RETRY_SECONDS:
                self._check_schema()
            reason = self._reason
        if reason is not None:
            raise Unavailable(reason, code="schema_mismatch", headers={"retry-after": "5"})

    def _check_schema(self) -> None:
        self._checked_at = time.monotonic()
        try:
            found = schema_mismatch(self._context.database)
        except PlatformError as error:
            _log.warning("the schema is not known yet: %s", error.message)
            return
        self._schema_matches = found is None
        reason = None if found is None else found.reason
        if reason is not None and reason != self._reason:
            _log.error("not ready: %s", reason)
        self._reason = reason
