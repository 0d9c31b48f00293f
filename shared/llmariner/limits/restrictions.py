"""The models and client networks that a caller may use, according to its key and its project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from llmariner.models.alias_targets import alias_targets
from llmariner.platform.database import Database
from llmariner.tenancy.keys.key import KEYS, ApiKey, key_from_row
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import api_keys, projects

__all__ = ["Restriction", "caller_restriction", "key_restriction", "project_restriction"]


@dataclass(frozen=True)
class Restriction:
    """The models and client networks (CIDR) that may be used. None: all."""

    models: frozenset[str] | None = None
    refused_models: frozenset[str] = frozenset()
    sources: tuple[str, ...] | None = None

    def allows(self, name: str, base: str | None) -> bool:
        """Whether the model of that name may be used; an adapter may not if its base model is refused."""
        refused = name in self.refused_models or base in self.refused_models
        return not refused and (self.models is None or name in self.models)


def key_restriction(key: ApiKey, aliases: Mapping[str, str]) -> Restriction:
    """The restriction of a key, combined with its project's. `aliases`: those of its project, with their models.

    An alias in the list of a key stands for the model that it points at. One in the list of a project stands for nothing,
    since members of the project move aliases, and may not change that list.
    """
    models, refused = _split_models(*(key.project_models or (None, frozenset())))
    if key.allowed_models is not None:
        own = frozenset(key.allowed_models) | {aliases[name] for name in key.allowed_models if name in aliases}
        models = own if models is None else models & own
    return Restriction(models, refused, key.allowed_sources)


def caller_restriction(database: Database, caller: Caller) -> Restriction:
    """The restriction of the caller's key; without a key, that of the caller's project."""
    if caller.key_id is None:
        return project_restriction(database, caller.key_owner.project_id)
    with database.read() as session:
        row = session.first(KEYS.where(api_keys.c.id == caller.key_id))
        if row is None:
            return Restriction()
        key = key_from_row(row)
        if key.allowed_models is None or key.project_id is None:
            return key_restriction(key, {})
        return key_restriction(key, alias_targets(session, key.project_id))


def project_restriction(database: Database, project_id: str) -> Restriction:
    """The restriction of a project, for callers without a key."""
    query = select(projects.c.model_mode, projects.c.model_ids).where(projects.c.id == project_id)
    with database.read() as session:
        row = session.first(query)
    if row is None:
        return Restriction()
    return Restriction(*_split_models(row.model_mode, frozenset(json.loads(row.model_ids or "[]"))))


def _split_models(mode: str | None, named: frozenset[str]) -> tuple[frozenset[str] | None, frozenset[str]]:
    """(allowed models or None for all, refused models) of a project's list."""
    if mode == "allow":
        return named, frozenset()
    return None, named if mode == "deny" else frozenset()
