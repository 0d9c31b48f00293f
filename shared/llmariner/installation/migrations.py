"""Migrates the database to this version, and registers the administrator's first key in an empty one."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from llmariner.context import Context
from llmariner.errors import Conflict
from llmariner.installation.retry import RetryLater
from llmariner.platform.database import Duplicate
from llmariner.platform.database.migrate import current, upgrade
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner
from llmariner.tenancy.tables import api_keys

__all__ = ["migrate"]


def migrate(context: Context, *, first_key: str = "") -> list[str]:
    """Migrate, and register `first_key` if given; returns log lines.

    Safe to run concurrently. RetryLater when the database does not answer.
    """
    try:
        upgrade(context.database)
    except OperationalError as error:
        raise RetryLater(f"The database does not answer: {error.orig}") from error
    messages = [f"The database is at revision {current(context.database)}."]
    return [*messages, *_register_first_key(context, first_key)] if first_key else messages


def _register_first_key(context: Context, secret: str) -> list[str]:
    """Register the key only where none was ever created: a rerun must not restore a revoked key."""
    with context.database.read() as session:
        if session.value(select(func.count()).select_from(api_keys)):
            return []
    try:
        owner = ensure_first_owner(context.database)
    except Duplicate:  # a concurrent run created it after the lookup
        owner = ensure_first_owner(context.database)
    try:
        key, _ = create_bootstrap_key(context.keys, owner, "admin", secret=secret)
    except Conflict:
        return []
    return [f"The administrator's first key {key.prefix} is registered."]
