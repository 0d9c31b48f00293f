"""Administrative mutations: serialized, and recorded as a CloudEvent and an audit entry in their own transaction.

Audit types are OpenAI's where it has one; OpenAI calls a project membership a role assignment.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from llmariner.audit import log
from llmariner.errors import Conflict
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.events import outbox
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.effective_permissions import resolve_permissions
from llmariner.tenancy.roles.scopes import with_implied
from llmariner.tenancy.tables import api_keys

__all__ = ["record_mutation", "serialize_mutations"]

# Audit type: the CloudEvent's type, and the collection in the CloudEvent's subject.
_EVENTS = {
    "organization.created": ("ai.llmariner.organization.created.v1", "organizations"),
    "organization.updated": ("ai.llmariner.organization.updated.v1", "organizations"),
    "organization.deleted": ("ai.llmariner.organization.deleted.v1", "organizations"),
    "project.created": ("ai.llmariner.project.created.v1", "projects"),
    "project.updated": ("ai.llmariner.project.updated.v1", "projects"),
    "project.archived": ("ai.llmariner.project.archived.v1", "projects"),
    "project.deleted": ("ai.llmariner.project.deleted.v1", "projects"),
    "user.added": ("ai.llmariner.organization_user.added.v1", "users"),
    "user.updated": ("ai.llmariner.organization_user.updated.v1", "users"),
    "user.deleted": ("ai.llmariner.organization_user.removed.v1", "users"),
    "role.assignment.created": ("ai.llmariner.project_user.added.v1", "users"),
    "role.assignment.deleted": ("ai.llmariner.project_user.removed.v1", "users"),
    "service_account.created": ("ai.llmariner.service_account.created.v1", "users"),
    "service_account.updated": ("ai.llmariner.service_account.updated.v1", "users"),
    "service_account.deleted": ("ai.llmariner.service_account.deleted.v1", "users"),
    "invite.sent": ("ai.llmariner.invite.sent.v1", "invites"),
    "invite.accepted": ("ai.llmariner.invite.accepted.v1", "invites"),
    "invite.deleted": ("ai.llmariner.invite.deleted.v1", "invites"),
    "role.created": ("ai.llmariner.role.created.v1", "roles"),
    "role.updated": ("ai.llmariner.role.updated.v1", "roles"),
    "role.deleted": ("ai.llmariner.role.deleted.v1", "roles"),
}


def serialize_mutations(session: WriteSession, actor: Caller | None = None) -> int:
    """Lock the sequence of revisions until the end of the transaction; returns the revision of this mutation.

    Must be the first call of the transaction: checks such as "is this the last owner?" or "is the title unused?" hold only
    while no other mutation runs. All mutations of the installation share this lock.

    Raises Conflict (`rights_changed`) if `actor` lost permissions while it waited for the lock.
    """
    revision = next_revision(session, "api_keys")
    if actor is not None:
        _check_still_permitted(session, actor)
    return revision


def record_mutation(
    session: WriteSession,
    actor: Caller | None,
    action: str,
    subject_id: str,
    details: dict[str, Any],
    *,
    organization_id: str,
    project_id: str | None = None,
) -> None:
    """Write the event to the outbox and append the audit entry. `actor` None: the platform itself.

    Must be the last call of the transaction, see `audit.log.append_entry`. `subject_id` is the id of what changed; `details`
    are the fields of the audit payload besides `id`.
    """
    type_, collection = _EVENTS[action]
    event = {"id": subject_id, "organization_id": organization_id, "project_id": project_id}
    outbox.add(session, type_, f"{collection}/{subject_id}", event)
    payload = {"id": subject_id, **details}
    log.append_entry(session, actor, action, payload, organization_id=organization_id, project_id=project_id)


def _check_still_permitted(session: ReadSession, actor: Caller) -> None:
    permissions = resolve_permissions(session, actor.user_id, actor.organization_id, actor.project_id)
    scopes = permissions.scopes
    if actor.key_id is not None:
        live = (api_keys.c.id == actor.key_id) & api_keys.c.revoked_at.is_(None)
        scopes &= with_implied(frozenset((session.value(select(api_keys.c.scopes).where(live)) or "").split()))
    left = permissions.organization_role is None or (actor.is_owner and permissions.organization_role != "owner")
    if left or not actor.scopes <= scopes:
        raise Conflict(
            "What you may do here was changed while this request waited for another one, so nothing was done. Look at your "
            "roles (`llma auth status`), then send it again.",
            code="rights_changed",
        )
