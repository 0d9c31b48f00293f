"""Brings the database up to this version, and registers the administrator's first key in an empty one."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from llmariner.context import Context
from llmariner.errors import Conflict
from llmariner.installation.retry import Waiting
from llmariner.platform.database import Duplicate
from llmariner.platform.database.migrate import current, upgrade
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner
from llmariner.tenancy.tables import api_keys

__all__ = ["migrate"]


def migrate(context: Context, *, first_key: str = "") -> list[str]:
    """Returns what was done. Two at once are safe. Waiting when the database does not answer."""
    try:
        upgrade(context.database)
    except OperationalError as error:
        raise Waiting(f"The database does not answer: {error.orig}") from error
    done = [f"The database is at revision {current(context.database)}."]
    return [*done, *_register(context, first_key)] if first_key else done


def _register(context: Context, secret: str) -> list[str]:
    """Only where no key was ever made: one that was revoked must not come back with the next run."""
    with context.database.read() as session:
        if session.value(select(func.count()).select_from(api_keys)):
            return []
    try:
        owner = ensure_first_owner(context.database)
    except Duplicate:  # another installer made it between our look and our writing
        owner = ensure_first_owner(context.database)
    try:
        key, _ = create_bootstrap_key(context.keys, owner, "admin", secret=secret)
    except Conflict:
        return []
    return [f"The administrator's first key {key.prefix} is registered."]
