"""Which models and sources a caller is bound to, by its key and by its project."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import select

from llmariner.platform.database import Database
from llmariner.tenancy.keys.key import KEYS, ApiKey, key_from_row
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import api_keys, projects

__all__ = ["Restriction", "caller_restriction", "key_restriction", "project_restriction"]


@dataclass(frozen=True)
class Restriction:
    """As in `gateway.control.Key`: None is all; `sources` are networks in CIDR form."""

    models: frozenset[str] | None = None
    refused_models: frozenset[str] = frozenset()
    sources: tuple[str, ...] | None = None

    def admits(self, name: str, base: str | None) -> bool:
        """Whether the model of that name may be used; an adapter may not where its base model is refused."""
        refused = name in self.refused_models or base in self.refused_models
        return not refused and (self.models is None or name in self.models)


def key_restriction(key: ApiKey) -> Restriction:
    """A key's, its project's included."""
    models, refused = _split_models(*(key.project_models or (None, frozenset())))
    if key.allowed_models is not None:
        own = frozenset(key.allowed_models)
        models = own if models is None else models & own
    return Restriction(models, refused, key.allowed_sources)


def caller_restriction(database: Database, caller: Caller) -> Restriction:
    """A key's, or that of the project which somebody without one works in."""
    if caller.key_id is None:
        return project_restriction(database, caller.key_owner.project_id)
    with database.read() as session:
        row = session.first(KEYS.where(api_keys.c.id == caller.key_id))
    return Restriction() if row is None else key_restriction(key_from_row(row))


def project_restriction(database: Database, project_id: str) -> Restriction:
    """A project's alone, for who comes without a key."""
    query = select(projects.c.model_mode, projects.c.model_ids).where(projects.c.id == project_id)
    with database.read() as session:
        row = session.first(query)
    if row is None:
        return Restriction()
    return Restriction(*_split_models(row.model_mode, frozenset(json.loads(row.model_ids or "[]"))))


def _split_models(mode: str | None, named: frozenset[str]) -> tuple[frozenset[str] | None, frozenset[str]]:
    """Models that may be used, None for all, and those that may not."""
    if mode == "allow":
        return named, frozenset()
    return None, named if mode == "deny" else frozenset()
