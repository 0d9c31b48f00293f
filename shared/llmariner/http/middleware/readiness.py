"""Whether a function may be sent requests: not while its database has a schema that its code can't run on."""

from __future__ import annotations

import logging
import threading
import time

from llmariner.context import Context
from llmariner.errors import PlatformError, Unavailable
from llmariner.platform.database.schema import schema_mismatch

__all__ = ["Readiness"]

_log = logging.getLogger(__name__)
# Knative asks every 50 ms while a copy starts.
_RETRY_SECONDS = 1.0


class Readiness:
    """Asks the database until its schema will do, and never again: a schema only grows."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._schema_matches = False
        self._reason: str | None = None
        self._checked_at = -_RETRY_SECONDS

    def check(self) -> None:
        """Unavailable, which says why, while no request should come.

        A database that does not answer is no reason: requests are told so sooner than they would be if they were held back.
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
