"""Which models somebody sees, and in which order: conditions and pages that the database works out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, func, not_, or_, select, true, tuple_

from llmariner.errors import InvalidRequest
from llmariner.limits.restrictions import Restriction
from llmariner.models.model import ActivationStatus, LoadingStatus, Task, qualified
from llmariner.models.tables import models
from llmariner.platform.database import ReadSession

__all__ = ["Selection", "after_model", "named", "ordered", "visible"]

# LLMariner's: active first, base before fine-tuned, then by age; of one second those that chat first.
_ORDER = (
    case((models.c.activation_status == ActivationStatus.ACTIVE, 0), else_=1),
    case((models.c.base_model_id.is_(None), 0), else_=1),
    models.c.created_at,
    case((models.c.task == Task.GENERATE, 0), else_=1),
    models.c.id,
)


@dataclass(frozen=True)
class Selection:
    """`project_id` None sees all; `restriction`: of those, what a key or a project may use."""

    project_id: str | None
    include_loading: bool = True
    restriction: Restriction = field(default_factory=Restriction)

    @property
    def condition(self) -> ColumnElement[bool]:
        """What a row must be to be selected."""
        parts = [visible(self.project_id), _meant(self.project_id)]
        if not self.include_loading:
            parts.append(models.c.loading_status == LoadingStatus.SUCCEEDED)
        if self.restriction.models is not None:
            parts.append(models.c.id.in_(self._ids(self.restriction.models)))
        if self.restriction.refused_models:
            refused = self._ids(self.restriction.refused_models)
            parts += [models.c.id.not_in(refused), func.coalesce(models.c.base_model_id, "").not_in(refused)]
        return and_(*parts)

    def _ids(self, names: frozenset[str]) -> list[str]:
        own = [] if self.project_id is None else [qualified(name, self.project_id) for name in names]
        return sorted([*names, *own])


def named(model_id: str, project_id: str | None) -> ColumnElement[bool]:
    """Rows of that id; for a project, which knows names only, of that name."""
    if project_id is None:
        return models.c.id == model_id
    return models.c.id.in_([] if "@" in model_id else [model_id, qualified(model_id, project_id)])


def visible(project_id: str | None) -> ColumnElement[bool]:
    """Models that are there for a project; None: for any."""
    return and_(models.c.deleted.is_(False), _of(project_id))


def ordered(selection: Selection) -> Select[Any]:
    """The rows of a selection in their order."""
    return select(models).where(selection.condition).order_by(*_ORDER)


def after_model(session: ReadSession, selection: Selection, model_id: str) -> ColumnElement[bool]:
    """What stands behind a model in that order. One that was deleted meanwhile still has its place.

    InvalidRequest for one that the project never saw.
    """
    place: Row[Any] | None = session.first(
        select(*(column.label(f"place_{index}") for index, column in enumerate(_ORDER)))
        .where(named(model_id, selection.project_id), _of(selection.project_id))
        .order_by(models.c.project_id.is_(None))
        .limit(1)
    )
    if place is None:
        raise InvalidRequest(f"'after' names no model: '{model_id}'.", param="after")
    return tuple_(*_ORDER) > tuple_(*place)


def _meant(project_id: str | None) -> ColumnElement[bool]:
    """Models that a project means by their names: not the shared one where its own has the same name."""
    if project_id is None:
        return true()
    own = models.alias()
    same = select(own.c.id).where(own.c.id == models.c.id.concat(f"@{project_id}"), own.c.deleted.is_(False))
    return or_(models.c.project_id.is_not(None), not_(same.exists()))


def _of(project_id: str | None) -> ColumnElement[bool]:
    if project_id is None:
        return models.c.id.is_not(None)
    return or_(models.c.project_id.is_(None), models.c.project_id == project_id)
