"""Which models and sources a key is bound to, by itself and by its project."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select

from llmariner.platform.database import Database
from llmariner.tenancy.tables import api_keys, projects

__all__ = ["Restriction", "Restrictions"]


@dataclass(frozen=True)
class Restriction:
    """As in `gateway.control.Key`: None is all; `sources` are networks in CIDR form."""

    models: frozenset[str] | None = None
    refused_models: frozenset[str] = frozenset()
    sources: tuple[str, ...] | None = None


class Restrictions:
    """Those of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_key(self, key_id: str) -> Restriction:
        """A key's, its project's included."""
        query = (
            select(api_keys.c.allowed_models, api_keys.c.allowed_sources, projects.c.model_mode, projects.c.model_ids)
            .select_from(api_keys.outerjoin(projects, projects.c.id == api_keys.c.project_id))
            .where(api_keys.c.id == key_id)
        )
        with self._database.read() as session:
            row = session.first(query)
        if row is None:
            return Restriction()
        models, refused = _of_project(row)
        own = _list(row.allowed_models)
        if own is not None:
            models = frozenset(own) if models is None else models & frozenset(own)
        sources = _list(row.allowed_sources)
        return Restriction(models, refused, None if sources is None else tuple(sources))

    def of_project(self, project_id: str) -> Restriction:
        """A project's alone, for who comes without a key."""
        query = select(projects.c.model_mode, projects.c.model_ids).where(projects.c.id == project_id)
        with self._database.read() as session:
            row = session.first(query)
        return Restriction() if row is None else Restriction(*_of_project(row))


def _of_project(row: Row[Any]) -> tuple[frozenset[str] | None, frozenset[str]]:
    """Models that may be used, None for all, and those that may not."""
    named = frozenset(_list(row.model_ids) or ())
    if row.model_mode == "allow":
        return named, frozenset()
    return None, named if row.model_mode == "deny" else frozenset()


def _list(text: str | None) -> list[str] | None:
    found: list[str] | None = None if text is None else json.loads(text)
    return found
