"""Events of notebooks."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from llmariner.platform.database import WriteSession
from llmariner.platform.events import outbox

__all__ = ["CHANGE_REQUESTED", "CREATED", "DELETED", "STARTED", "STOPPED", "add_notebook_event"]

CREATED = "ai.llmariner.notebook.created.v1"
STARTED = "ai.llmariner.notebook.started.v1"
STOPPED = "ai.llmariner.notebook.stopped.v1"
DELETED = "ai.llmariner.notebook.deleted.v1"
CHANGE_REQUESTED = "ai.llmariner.notebook.change_requested.v1"


def add_notebook_event(session: WriteSession, type_: str, notebook: Row[Any], **fields: Any) -> None:
    """Add an event about a notebook, a row of `notebooks`, to the outbox. `fields` are further data."""
    owner = {"project_id": notebook.project_id, "organization_id": notebook.organization_id}
    outbox.add(session, type_, f"notebooks/{notebook.id}", {"id": notebook.id, **fields, **owner})
