"""Projects of an organization: created, changed, archived, deleted.

A deleted project has no members and keys, and its title can be used again. Its row is kept as archived, so that usage and
the audit log can show its title.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, delete, func, select, update

from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.identifiers import new_id
from llmariner.limits.cascade_delete import delete_rules
from llmariner.models.tables import models
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy import validators
from llmariner.tenancy.members.deprovisioning import delete_service_accounts, revoke_keys
from llmariner.tenancy.mutations import record_mutation, serialize_mutations
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.effective_permissions import bump_revision
from llmariner.tenancy.tables import (
    api_keys,
    custom_roles,
    group_roles,
    is_human,
    organization_users,
    project_users,
    projects,
    users,
)

__all__ = ["Assignment", "NewProject", "Project", "Projects"]

_MAX_MODELS = 1000
# Unarchived projects per organization: titles are compared while all mutations of the installation wait for the lock.
_MAX_PROJECTS = 1000


@dataclass(frozen=True)
class Assignment:
    """Where a project's workloads run on a cluster. `cluster_id` empty: on every cluster; `queue`: a Kueue LocalQueue."""

    namespace: str
    cluster_id: str = ""
    queue: str = ""
    node_selector: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class NewProject:
    """A project to create: with a namespace for its workloads, or with assignments, or neither."""

    title: str
    kubernetes_namespace: str | None = None
    assignments: Sequence[Assignment] = ()


@dataclass(frozen=True)
class Project:
    """A project. `model_mode` 'allow': its members may use only `model_ids`; 'deny': all but these; None: all."""

    id: str
    organization_id: str
    title: str
    is_default: bool
    created_at: int
    archived_at: int | None
    kubernetes_namespace: str | None
    assignments: tuple[Assignment, ...]
    model_mode: str | None
    model_ids: tuple[str, ...] = field(default=())


class Projects:
    """The projects of one installation. A caller acts in its own organization."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, caller: Caller, new: NewProject) -> Project:
        """Create a project; the owners of the organization become its owners.

        Conflict if an unarchived project has the title, InvalidRequest at the maximum number of projects.
        """
        organization_id, project_id = caller.organization_id, new_id("proj")
        values = {
            "title": validators.validate_selectable_title(new.title),
            **_placement_columns(new.kubernetes_namespace, new.assignments),
        }
        now = int(time.time())
        with self._database.write() as session:
            serialize_mutations(session, caller)
            _check_not_full(session, organization_id)
            _check_title_free(session, organization_id, values["title"])
            row = {"id": project_id, "organization_id": organization_id, "is_default": False, "created_at": now}
            session.add(projects, **row, **values)
            owners = select(organization_users.c.user_id).where(
                organization_users.c.organization_id == organization_id, organization_users.c.role == "owner"
            )
            joined = {"organization_id": organization_id, "role": "owner", "created_at": now}
            for owner in session.rows(owners):
                session.add(project_users, project_id=project_id, user_id=owner.user_id, **joined)
            details = {"data": {"name": values["title"], "title": values["title"]}}
            _record(session, caller, "project.created", project_id, details)
        return self.get(organization_id, project_id)

    def get(self, organization_id: str, project_id: str) -> Project:
        """One project, archived or not. NotFound otherwise."""
        with self._database.read() as session:
            return _load(session, organization_id, project_id)

    def all(self, organization_id: str, *, member: str | None = None) -> list[Project]:
        """The unarchived projects, oldest first; with `member` only those of that user."""
        query = select(projects).where(projects.c.organization_id == organization_id, projects.c.archived_at.is_(None))
        if member is not None:
            member_of = select(project_users.c.project_id).where(project_users.c.user_id == member)
            query = query.where(projects.c.id.in_(member_of))
        with self._database.read() as session:
            return [
                _project_from_row(row) for row in session.rows(query.order_by(projects.c.created_at, projects.c.id))
            ]

    def count_members(self, project_ids: Sequence[str]) -> dict[str, int]:
        """The number of people in each project; service accounts and hidden users are not counted."""
        query = select(project_users.c.project_id).join(users, users.c.id == project_users.c.user_id)
        shown = query.where(project_users.c.project_id.in_(project_ids), users.c.hidden.is_(False))
        counts = dict.fromkeys(project_ids, 0)
        with self._database.read() as session:
            for row in session.rows(shown.where(is_human)):
                counts[row.project_id] += 1
        return counts

    def rename(self, caller: Caller, project_id: str, title: str) -> Project:
        """Change the title. Conflict if an unarchived project has it."""
        requested = validators.validate_selectable_title(title)
        with self._database.write() as session:
            serialize_mutations(session, caller)
            project = _live_project(session, caller, project_id)
            if requested != project.title:
                _check_title_free(session, caller.organization_id, requested, but=project_id)
            _update_columns(session, project_id, title=requested)
            details = {"changes_requested": {"name": requested, "title": requested}}
            _record(session, caller, "project.updated", project_id, details)
        return self.get(caller.organization_id, project_id)

    def assign(self, caller: Caller, project_id: str, assignments: Sequence[Assignment]) -> Project:
        """Replace where the project's workloads run; removes its namespace setting."""
        values = _placement_columns(None, assignments)
        with self._database.write() as session:
            serialize_mutations(session, caller)
            _live_project(session, caller, project_id)
            _update_columns(session, project_id, **values)
            details = {"changes_requested": {"assignments": json.loads(values["assignments"] or "[]")}}
            _record(session, caller, "project.updated", project_id, details)
        return self.get(caller.organization_id, project_id)

    def set_models(self, caller: Caller, project_id: str, mode: str | None, model_ids: Sequence[str]) -> Project:
        """Restrict the models that members may use: `mode` 'allow' only these, 'deny' these, None: no restriction."""
        if mode not in ("allow", "deny", None):
            raise InvalidRequest("'mode' must be 'allow' or 'deny'.", param="mode")
        if len(model_ids) > _MAX_MODELS:
            raise InvalidRequest(f"'model_ids' must name at most {_MAX_MODELS} models.", param="model_ids")
        listed = sorted(set(model_ids)) if mode else []
        with self._database.write() as session:
            serialize_mutations(session, caller)
            _live_project(session, caller, project_id)
            _update_columns(session, project_id, model_mode=mode, model_ids=json.dumps(listed))
            _bump_members_and_keys(session, project_id)
            details = {"changes_requested": {"model_mode": mode, "model_ids": listed}}
            _record(session, caller, "project.updated", project_id, details)
        return self.get(caller.organization_id, project_id)

    def archive(self, caller: Caller, project_id: str) -> Project:
        """Archive a project: it is kept, and its keys stop working. InvalidRequest for the default project."""
        with self._database.write() as session:
            serialize_mutations(session, caller)
            _check_not_default(_live_project(session, caller, project_id), "archived")
            _update_columns(session, project_id, archived_at=int(session.now()))
            _bump_members_and_keys(session, project_id)
            _record(session, caller, "project.archived", project_id, {})
        return self.get(caller.organization_id, project_id)

    def delete(self, caller: Caller, project_id: str) -> dict[str, list[str]]:
        """Delete a project. Returns what was removed with it: members by e-mail, service accounts by name, the rest by id.

        InvalidRequest for the default project, and while the project has models; the error lists them.
        """
        with self._database.write() as session:
            revision = serialize_mutations(session, caller)
            project = _load(session, caller.organization_id, project_id)
            _check_not_default(project, "deleted")
            _check_no_models(session, project_id)
            removed = _delete_dependents(session, revision, project_id)
            removed |= delete_rules(session, project.organization_id, "project", [project_id])
            _update_columns(session, project_id, archived_at=project.archived_at or int(session.now()))
            _record(session, caller, "project.deleted", project_id, {"removed": removed})
        return removed


def _placement_columns(namespace: str | None, assignments: Sequence[Assignment]) -> dict[str, Any]:
    """The columns that say where the workloads run. InvalidRequest if both are given or a name is invalid."""
    if namespace and assignments:
        raise InvalidRequest(
            "Give 'kubernetes_namespace' or 'assignments', not both: an assignment names its namespace.",
            param="assignments",
        )
    for index, each in enumerate(assignments):
        _check_assignment(each, f"assignments[{index}]")
    clusters = [each.cluster_id for each in assignments]
    if len(set(clusters)) < len(clusters):
        raise InvalidRequest("'assignments' must name each cluster once.", param="assignments")
    return {
        "kubernetes_namespace": validators.validate_dns_label(namespace, "kubernetes_namespace") if namespace else None,
        "assignments": json.dumps([_assignment_json(each) for each in assignments]) if assignments else None,
    }


def _check_assignment(assignment: Assignment, where: str) -> None:
    validators.validate_dns_label(assignment.namespace, f"{where}.namespace")
    if assignment.queue:
        validators.validate_dns_label(assignment.queue, f"{where}.kueue_queue_name")
    if len(assignment.cluster_id) > 64:
        raise InvalidRequest(
            f"'{where}.cluster_id' must be the id of a cluster, or empty.", param=f"{where}.cluster_id"
        )
    for index, (key, value) in enumerate(assignment.node_selector):
        validators.validate_label_key(key, f"{where}.node_selector[{index}].key")
        validators.validate_label_value(value, f"{where}.node_selector[{index}].value")


def _assignment_json(assignment: Assignment) -> dict[str, Any]:
    return {
        "cluster_id": assignment.cluster_id,
        "namespace": assignment.namespace,
        "queue": assignment.queue,
        "node_selector": [list(pair) for pair in assignment.node_selector],
    }


def _project_from_row(row: Row[Any]) -> Project:
    stored = json.loads(row.assignments or "[]")
    assigned = (Assignment(**{**one, "node_selector": tuple(map(tuple, one["node_selector"]))}) for one in stored)
    return Project(
        id=row.id,
        organization_id=row.organization_id,
        title=row.title,
        is_default=row.is_default,
        created_at=row.created_at,
        archived_at=row.archived_at,
        kubernetes_namespace=row.kubernetes_namespace,
        assignments=tuple(assigned),
        model_mode=row.model_mode,
        model_ids=tuple(json.loads(row.model_ids or "[]")),
    )


def _load(session: ReadSession, organization_id: str, project_id: str) -> Project:
    query = select(projects).where(projects.c.id == project_id, projects.c.organization_id == organization_id)
    row = session.first(query)
    if row is None:
        raise NotFound(f"No project with id '{project_id}' in this organization.", param="project_id")
    return _project_from_row(row)


def _live_project(session: ReadSession, caller: Caller, project_id: str) -> Project:
    project = _load(session, caller.organization_id, project_id)
    if project.archived_at is not None:
        raise InvalidRequest(f"The project '{project.title}' is archived; it can't be changed.", param="project_id")
    return project


def _check_not_full(session: ReadSession, organization_id: str) -> None:
    live = select(func.count()).where(projects.c.organization_id == organization_id, projects.c.archived_at.is_(None))
    if session.value(live) >= _MAX_PROJECTS:
        raise InvalidRequest(
            f"An organization has up to {_MAX_PROJECTS} projects: archive or delete those that are not needed.",
            code="too_many_projects",
        )


def _check_title_free(session: ReadSession, organization_id: str, title: str, *, but: str = "") -> None:
    live = select(projects.c.title).where(
        projects.c.organization_id == organization_id, projects.c.archived_at.is_(None), projects.c.id != but
    )
    if validators.skeleton(title) in {validators.skeleton(row.title) for row in session.rows(live)}:
        raise Conflict(f"The organization has a project titled '{title}'; choose another title.", param="title")


def _check_not_default(project: Project, what: str) -> None:
    if project.is_default:
        raise InvalidRequest(
            f"The default project can't be {what}: new people begin there.", param="project_id", code="default_project"
        )


def _check_no_models(session: ReadSession, project_id: str) -> None:
    query = select(models.c.id).where(models.c.project_id == project_id, models.c.deleted.is_(False))
    found = [row.id for row in session.rows(query.order_by(models.c.id))]
    if found:
        raise InvalidRequest(
            f"The project has models of its own: {', '.join(found[:10])}. Delete them first, with DELETE /v1/models/ID.",
            param="project_id",
            code="in_use",
            details={"in_the_way": {"models": found}},
        )


def _delete_dependents(session: WriteSession, revision: int, project_id: str) -> dict[str, list[str]]:
    accounts, revoked_keys = delete_service_accounts(session, revision, project_id)
    revoked_keys += revoke_keys(session, revision, api_keys.c.project_id == project_id)
    members = session.rows(
        select(users.c.id, users.c.email)
        .join(project_users, project_users.c.user_id == users.c.id)
        .where(project_users.c.project_id == project_id)
        .order_by(users.c.email)
    )
    session.run(delete(project_users).where(project_users.c.project_id == project_id))
    removed = {"users": [row.email for row in members], "service_accounts": accounts, "api_keys": revoked_keys}
    for kind, table in (("group_roles", group_roles), ("roles", custom_roles)):
        removed[kind] = [row.id for row in session.rows(select(table.c.id).where(table.c.project_id == project_id))]
        session.run(delete(table).where(table.c.project_id == project_id))
    bump_revision(session, user_ids=[row.id for row in members])
    return removed


def _update_columns(session: WriteSession, project_id: str, **values: Any) -> None:
    session.run(update(projects).where(projects.c.id == project_id).values(**values))


def _bump_members_and_keys(session: WriteSession, project_id: str) -> None:
    """Bump the revision of everyone with access to the project: the organization's members, and the holders of its keys."""
    keys = session.rows(
        select(api_keys.c.id).where(api_keys.c.project_id == project_id, api_keys.c.revoked_at.is_(None))
    )
    people = session.rows(_ORGANIZATION_MEMBERS.where(projects.c.id == project_id))
    bump_revision(session, user_ids=[row.user_id for row in people], key_ids=[row.id for row in keys])


# Owners of the organization have access to a project without a membership.
_ORGANIZATION_MEMBERS = select(organization_users.c.user_id).join(
    projects, projects.c.organization_id == organization_users.c.organization_id
)


def _record(session: WriteSession, caller: Caller, action: str, project_id: str, details: dict[str, Any]) -> None:
    record_mutation(
        session, caller, action, project_id, details, organization_id=caller.organization_id, project_id=project_id
    )
