"""What the aliases of a project point at."""

from __future__ import annotations

from sqlalchemy import select

from llmariner.models.tables import model_aliases
from llmariner.platform.database import ReadSession

__all__ = ["alias_targets"]


def alias_targets(session: ReadSession, project_id: str) -> dict[str, str]:
    """The name of the model that each alias of a project points at."""
    c = model_aliases.c
    rows = session.rows(select(c.name, c.model).where(c.project_id == project_id, c.model.is_not(None)))
    return {row.name: row.model for row in rows}
