"""Permissions by which other projects of an organization use a checkpoint: each has the model under the same name then.

A permitted model is one of the other project's: it is served, limited and billed as any of theirs. Its weights are those
of the checkpoint's file, which the platform reads for them; the file itself stays the first project's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sqlalchemy import Row, delete, select

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest, ModelNotFound, NotFound
from llmariner.fine_tuning.file_locations import shared_location
from llmariner.fine_tuning.references import keep_file
from llmariner.fine_tuning.tables import fine_tuning_checkpoints, fine_tuning_permissions
from llmariner.identifiers import new_id
from llmariner.models.model import ActivationStatus, NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import projects

__all__ = ["CheckpointPermission", "CheckpointPermissions"]

_MAX_PROJECTS = 100


@dataclass(frozen=True)
class CheckpointPermission:
    """The permission of a project."""

    id: str
    project_id: str
    created_at: int


class CheckpointPermissions:
    """The permissions of one installation. Those of another organization's checkpoints are NotFound. All methods block."""

    def __init__(self, database: Database, registry: ModelRegistry) -> None:
        self._database = database
        self._registry = registry

    def create(self, caller: Caller, checkpoint: str, project_ids: Sequence[str]) -> list[CheckpointPermission]:
        """Permit projects; one that is permitted already stays so. Returns the permissions of these projects.

        Raises NotFound for the checkpoint, its file or a project, InvalidRequest where its base model is not shared or no
        project is named, Conflict where a project has another model of that name.
        """
        if not 0 < len(project_ids) <= _MAX_PROJECTS:
            raise InvalidRequest(f"'project_ids' must name 1 to {_MAX_PROJECTS} projects.", param="project_ids")
        with self._database.read() as session:
            found = self._checkpoint(session, caller, checkpoint)
            self._check_projects(session, caller, found, project_ids)
        model = self._registry.get(checkpoint, project_id=found.project_id)
        # A model of which all weights were trained has no base.
        base = None if model.base_model_id is None else self._registry.get(model.base_model_id)
        if base is not None and base.project_id is not None:
            raise InvalidRequest(
                f"The base model '{base.name}' belongs to a project, and other projects can't use it.",
                param="project_ids",
            )
        for project_id in dict.fromkeys(project_ids):
            location = shared_location(found.project_id, found.file_id)
            base_id = None if base is None else base.name
            new = NewModel(checkpoint, SourceRepository.FINE_TUNING, location, base_id, project_id)
            try:
                self._registry.create(new, check=partial(keep_file, file_id=found.file_id))
            except Conflict:
                if self._registry.get(checkpoint, project_id=project_id).model_file_location != location:
                    raise
            self._database.transact(partial(_add, caller=caller, found=found, project_id=project_id))
        with self._database.read() as session:
            rows = session.rows(_of(caller, checkpoint).where(fine_tuning_permissions.c.project_id.in_(project_ids)))
        return [_permission(row) for row in rows]

    def page(
        self,
        caller: Caller,
        checkpoint: str,
        *,
        project_id: str | None,
        after: str | None,
        limit: int,
        order: Literal["ascending", "descending"],
    ) -> tuple[list[CheckpointPermission], bool]:
        """Up to `limit` permissions, and whether more follow. `project_id`: of that project alone."""
        query, key = _of(caller, checkpoint), fine_tuning_permissions.c.id
        if project_id is not None:
            query = query.where(fine_tuning_permissions.c.project_id == project_id)
        if after is not None:
            query = query.where(key > after if order == "ascending" else key < after)
        with self._database.read() as session:
            self._checkpoint(session, caller, checkpoint)
            rows = session.rows(query.order_by(key if order == "ascending" else key.desc()).limit(limit + 1))
        return [_permission(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, caller: Caller, checkpoint: str, permission_id: str) -> None:
        """End a permission: the project's model is deleted, also where it is active. NotFound."""
        with self._database.read() as session:
            row = session.first(_of(caller, checkpoint).where(fine_tuning_permissions.c.id == permission_id))
        if row is None:
            raise NotFound(f"No such permission: '{permission_id[:64]}'.", param="permission_id")
        self._delete_model(row)

        def remove(session: WriteSession) -> None:
            if session.run(delete(fine_tuning_permissions).where(fine_tuning_permissions.c.id == permission_id)):
                _audit(session, caller, row, "deleted")

        self._database.transact(remove)

    def _delete_model(self, row: Row[Any]) -> None:
        with contextlib.suppress(ModelNotFound):
            model = self._registry.get(row.model, project_id=row.project_id)
            # Since then the project may have made another model of that name.
            if model.project_id == row.project_id and model.model_file_location == row.location:
                if model.activation_status is ActivationStatus.ACTIVE:
                    self._registry.activate(model.name, ActivationStatus.INACTIVE, project_id=row.project_id)
                self._registry.delete(model.name, project_id=row.project_id, even_if_aliased=True)

    @staticmethod
    def _checkpoint(session: ReadSession, caller: Caller, checkpoint: str) -> Row[Any]:
        c = fine_tuning_checkpoints.c
        own = (c.model == checkpoint) & (c.organization_id == caller.organization_id)
        row = session.first(select(fine_tuning_checkpoints).where(own).order_by(c.id.desc()).limit(1))
        if row is None:
            raise NotFound(
                f"No such checkpoint: '{checkpoint[:200]}'. A job lists its own: GET /v1/fine_tuning/jobs/ID/checkpoints.",
                param="fine_tuned_model_checkpoint",
            )
        return row

    @staticmethod
    def _check_projects(session: ReadSession, caller: Caller, found: Row[Any], project_ids: Sequence[str]) -> None:
        c = projects.c
        own = (c.organization_id == caller.organization_id) & c.archived_at.is_(None)
        known = {row.id for row in session.rows(select(c.id).where(own, c.id.in_(project_ids)))}
        if missing := [each for each in project_ids if each not in known]:
            raise NotFound(f"No such project: '{missing[0][:64]}'.", param="project_ids")
        if found.project_id in project_ids:
            raise InvalidRequest("The checkpoint belongs to one of these projects already.", param="project_ids")


def _of(caller: Caller, checkpoint: str) -> Any:
    c = fine_tuning_permissions.c
    return select(fine_tuning_permissions).where(c.model == checkpoint, c.organization_id == caller.organization_id)


def _add(session: WriteSession, caller: Caller, found: Row[Any], project_id: str) -> None:
    row = {
        "id": new_id("cp"),
        "organization_id": found.organization_id,
        "project_id": project_id,
        "model": found.model,
        "location": shared_location(found.project_id, found.file_id),
        "created_at": int(time.time()),
    }
    if session.insert_if_absent(fine_tuning_permissions, [row]):
        stored = session.first(select(fine_tuning_permissions).where(fine_tuning_permissions.c.id == row["id"]))
        assert stored is not None
        _audit(session, caller, stored, "created")


def _audit(session: WriteSession, caller: Caller, row: Row[Any], what: str) -> None:
    payload = {"id": row.id, "data": {"fine_tuned_model_checkpoint": row.model}}
    place = {"organization_id": row.organization_id, "project_id": row.project_id}
    log.append_entry(session, caller, f"checkpoint.permission.{what}", payload, **place)


def _permission(row: Row[Any]) -> CheckpointPermission:
    return CheckpointPermission(row.id, row.project_id, row.created_at)
