"""Pending invitations: which exist, whether their inviter may still grant what they contain, and their withdrawal.

An invitation is valid only while its inviter may manage the organization's users and holds the granted roles. It is
withdrawn when the invited person becomes a member by other means.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, select, update

from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.tenancy.mutations import record_mutation
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.delegation import check_can_grant_organization_role, check_can_grant_project_role
from llmariner.tenancy.roles.effective_permissions import resolve_permissions
from llmariner.tenancy.tables import invites

__all__ = ["is_inviter_authorized", "is_pending", "pending_invites_of", "withdraw_invites"]

_INVITES = "api.organizations.users.write"


def is_pending(*, email: str | None = None, organization_id: str | None = None) -> ColumnElement[bool]:
    """The condition on rows of `invites` that can be accepted now; optionally of one address or organization."""
    requested = {"email": email, "organization_id": organization_id}
    return and_(
        invites.c.accepted_at.is_(None),
        invites.c.revoked_at.is_(None),
        invites.c.expires_at > int(time.time()),
        *(invites.c[name] == value for name, value in requested.items() if value is not None),
    )


def is_inviter_authorized(session: ReadSession, invite: Row[Any]) -> bool:
    """Whether the inviter of an invitation (a row of `invites`) may still grant all that it contains."""
    organization_id = invite.organization_id
    permissions = resolve_permissions(session, invite.invited_by, organization_id, None)
    if _INVITES not in permissions.scopes:
        return False
    inviter = Caller(
        invite.invited_by, "", organization_id, None, permissions.organization_role, None, permissions.scopes
    )
    try:
        check_can_grant_organization_role(session, inviter, organization_id, invite.role)
        for each in json.loads(invite.projects):
            check_can_grant_project_role(session, inviter, organization_id, each["id"], each["role"])
    except (InvalidRequest, PermissionDenied):
        return False
    return True


def withdraw_invites(session: WriteSession, actor: Caller | None, found: Sequence[Row[Any]]) -> None:
    """Revoke pending invitations (rows of `invites`) whose addressee has become a member.

    Must be the last call of a transaction, see `record_mutation`.
    """
    for invite in found:
        session.run(update(invites).where(invites.c.id == invite.id).values(revoked_at=int(time.time())))
        details = {"reason": "became_a_member"}
        record_mutation(session, actor, "invite.deleted", invite.id, details, organization_id=invite.organization_id)


def pending_invites_of(session: ReadSession, organization_id: str, email: str) -> Sequence[Row[Any]]:
    """The pending invitations of an address to an organization."""
    return session.rows(select(invites).where(is_pending(email=email, organization_id=organization_id)))
