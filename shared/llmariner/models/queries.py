"""Visibility and order of models, as SQL conditions: filtering and pagination happen in the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, func, not_, or_, select, true, tuple_

from llmariner.errors import InvalidRequest
from llmariner.limits.restrictions import Restriction
from llmariner.models.model import ActivationStatus, LoadingStatus, Task, qualified_id
from llmariner.models.tables import model_aliases, models
from llmariner.platform.database import ReadSession

__all__ = ["ModelSelector", "after_cursor", "matches_name", "ordered_query", "visible_to"]

# LLMariner's order: active first, base before fine-tuned, then by age; chat models first within one second.
_SORT_KEY = (
    case((models.c.activation_status == ActivationStatus.ACTIVE, 0), else_=1),
    case((models.c.base_model_id.is_(None), 0), else_=1),
    models.c.created_at,
    case((models.c.task == Task.GENERATE, 0), else_=1),
    models.c.id,
)


@dataclass(frozen=True)
class ModelSelector:
    """The models that a project sees, or all where `project_id` is None, narrowed to those that `restriction` admits."""

    project_id: str | None
    include_loading: bool = True
    restriction: Restriction = field(default_factory=Restriction)

    @property
    def condition(self) -> ColumnElement[bool]:
        """The condition of a selected row."""
        parts = [visible_to(self.project_id), _not_shadowed(self.project_id)]
        if not self.include_loading:
            parts.append(models.c.loading_status == LoadingStatus.SUCCEEDED)
        if self.restriction.models is not None:
            parts.append(models.c.id.in_(self._ids(self.restriction.models)))
        if self.restriction.refused_models:
            refused = self._ids(self.restriction.refused_models)
            parts += [models.c.id.not_in(refused), func.coalesce(models.c.base_model_id, "").not_in(refused)]
        return and_(*parts)

    def _ids(self, names: frozenset[str]) -> list[str]:
        own = [] if self.project_id is None else [qualified_id(name, self.project_id) for name in names]
        return sorted([*names, *own])


def matches_name(model_id: str, project_id: str | None) -> ColumnElement[bool]:
    """The row with that id; within a project, `model_id` is a name."""
    if project_id is None:
        return models.c.id == model_id
    return models.c.id.in_([] if "@" in model_id else [model_id, qualified_id(model_id, project_id)])


def visible_to(project_id: str | None) -> ColumnElement[bool]:
    """Models that a project sees; None: all that are not deleted."""
    return and_(models.c.deleted.is_(False), _in_scope(project_id))


def ordered_query(selector: ModelSelector) -> Select[Any]:
    """The rows that a selector selects, in order."""
    return select(models).where(selector.condition).order_by(*_SORT_KEY)


def after_cursor(session: ReadSession, selector: ModelSelector, model_id: str) -> ColumnElement[bool]:
    """The condition of rows after a model in that order; a model deleted since the last page keeps its position.

    InvalidRequest for a model that the project never saw.
    """
    cursor: Row[Any] | None = session.first(
        select(*(column.label(f"sort_{index}") for index, column in enumerate(_SORT_KEY)))
        .where(matches_name(model_id, selector.project_id), _in_scope(selector.project_id))
        .order_by(models.c.project_id.is_(None))
        .limit(1)
    )
    if cursor is None:
        raise InvalidRequest(f"'after' names no model: '{model_id}'.", param="after")
    return tuple_(*_SORT_KEY) > tuple_(*cursor)


def _not_shadowed(project_id: str | None) -> ColumnElement[bool]:
    """Not the shared models whose names the project's own models or aliases have: within the project, it means these."""
    if project_id is None:
        return true()
    own = models.alias()
    same = select(own.c.id).where(own.c.id == models.c.id.concat(f"@{project_id}"), own.c.deleted.is_(False))
    c = model_aliases.c
    named = select(c.name).where(c.project_id == project_id, c.name == models.c.id, c.model.is_not(None))
    return or_(models.c.project_id.is_not(None), and_(not_(same.exists()), not_(named.exists())))


def _in_scope(project_id: str | None) -> ColumnElement[bool]:
    if project_id is None:
        return models.c.id.is_not(None)
    return or_(models.c.project_id.is_(None), models.c.project_id == project_id)
