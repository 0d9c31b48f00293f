"""Translation of database errors into platform errors; no other module reads SQLSTATEs and drivers' messages."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from llmariner.errors import InvalidRequest, PlatformError, TransactionConflict, Unavailable

__all__ = ["translate", "translate_commit_error"]

# PostgreSQL, appendix A: serialization_failure, deadlock_detected.
_CONFLICTS = frozenset({"40001", "40P01"})
# lock_not_available, query_canceled (statement_timeout), idle_in_transaction_session_timeout.
_TOO_LONG = frozenset({"55P03", "57014", "25P03"})


def translate(error: Exception) -> PlatformError | None:
    """The platform error for a database error; None for an error of our own code."""
    if isinstance(error, PoolTimeout):
        return _unavailable("Every connection of this process to the database is in use. Nothing was changed", 1)
    if isinstance(error, (DataError, OverflowError)):
        return InvalidRequest(
            "A value can't be stored: a number is out of range, or a text is too long or holds a NUL character."
        )
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    if state in _CONFLICTS:
        return TransactionConflict(
            "Another change was made at the same time and got in the way of this one. Nothing was changed; try again.",
            headers={"retry-after": "1"},
        )
    if state in _TOO_LONG or _is_locked(error):
        return _unavailable("The database is busy and took too long. Nothing was changed", 2)
    # A connection that the server or PgBouncer closed is reported as one or the other.
    if isinstance(error, (OperationalError, InternalError)):
        return _unavailable("The database does not answer. Nothing was changed", 2)
    return None


def translate_commit_error(error: DBAPIError) -> PlatformError | None:
    """As `translate`, for an error of the commit: after a lost connection the outcome is unknown."""
    if error.connection_invalidated and getattr(error.orig, "sqlstate", None) not in _CONFLICTS | _TOO_LONG:
        return Unavailable(
            "The connection to the database broke while the change was stored: it may have been made or not. Look at what "
            "is there before you try again.",
            code="outcome_unknown",
            headers={"x-should-retry": "false"},
        )
    return translate(error)


def _is_locked(error: Exception) -> bool:
    """Whether another process or thread holds SQLite's write lock."""
    return isinstance(error, OperationalError) and "database is locked" in str(error.orig)


def _unavailable(fact: str, seconds: int) -> Unavailable:
    return Unavailable(f"{fact}; try again shortly.", headers={"retry-after": str(seconds)})
