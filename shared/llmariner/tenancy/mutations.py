"""Administrative acts: each is told to consumers (CloudEvent) and to auditors in the transaction that does it.

Audit names are OpenAI's where it has one; it calls a membership of a project a role assignment.
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

# Audit name: type of the event, and the collection that its subject is in.
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
    """Wait until no other act is under way; returns the revision of this one.

    Conflict where `actor` may less by now than when the request came: acts wait for one another, and one of those before
    may have removed who does the next.

    Rules look before they change ("is this the last owner?", "is the title free?"), and all keys and people share one
    sequence of revisions: who holds its row is alone with them to the end of the transaction. To be called first.
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
    """Tell of an act; to be called last, see `audit.log.append_entry`. `actor` None: the platform.

    `details` is what the audit log keeps beside the id; `subject_id` is whom the event is about.
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
