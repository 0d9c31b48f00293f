"""Rows of notebooks: found, and the change of one with its audit entry."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, select

from llmariner.audit import log
from llmariner.errors import NotFound
from llmariner.notebooks.tables import notebooks
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.tenancy.principal import Caller

__all__ = ["append_audit", "load_notebook"]


def load_notebook(session: ReadSession, project_id: str, notebook_id: str, *, lock: bool = False) -> Row[Any]:
    """The row of a notebook of a project. NotFound. `lock`: until the transaction ends."""
    this = (notebooks.c.id == notebook_id) & (notebooks.c.project_id == project_id) & notebooks.c.deleted_at.is_(None)
    query = select(notebooks).where(this)
    row = session.first(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound(
            f"No such notebook: '{notebook_id[:64]}'. List those of your project with GET /v1/workspaces/notebooks.",
            param="id",
        )
    return row


def append_audit(session: WriteSession, caller: Caller, what: str, notebook: Row[Any], **details: Any) -> None:
    """Append the audit entry of a change; the last call of its transaction."""
    place = {"organization_id": notebook.organization_id, "project_id": notebook.project_id}
    log.append_entry(session, caller, f"notebook.{what}", {"id": notebook.id, **details}, **place)
