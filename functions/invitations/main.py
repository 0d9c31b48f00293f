"""/v1/invitations: how somebody comes in by an invitation, without a key or a sign-in yet."""

from typing import Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.app import api
from llmariner.http.authentication import context_of
from llmariner.http.bodies import Body
from llmariner.http.function import Application, function
from llmariner.http.shapes import api_key, user
from llmariner.settings import IdentitySettings
from llmariner.tenancy.invites import Invite, Invites
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.users import Users


class AcceptInvitation(Body):
    """POST /v1/invitations:accept."""

    token: str


def build(context: Context) -> Application:
    """The routes."""
    app = api("invitations", context)
    app.post("/v1/invitations:accept")(accept_invitation)
    return app


def accept_invitation(request: Request, body: AcceptInvitation) -> dict[str, Any]:
    """Let in who shows the token. Where nobody can sign in, the answer holds their first key, this once."""
    context = context_of(request)
    invite, user_id = Invites(context.database, context.secrets.pepper).accept(body.token)
    caller = context.callers.of_user(user_id, invite.organization_id)
    return {
        "id": invite.id,
        "object": "organization.invite",
        "status": "accepted",
        "accepted_at": invite.accepted_at,
        "organization_id": invite.organization_id,
        "user": user(Users(context.database).self(caller)),
        "api_key": _first_key(context, invite, user_id),
    }


def _first_key(context: Context, invite: Invite, user_id: str) -> dict[str, Any] | None:
    """None for people who sign in, and for those who are in no project yet."""
    project_id = invite.projects[0].project_id if invite.projects else None
    caller = context.callers.of_user(user_id, invite.organization_id)
    if IdentitySettings.load(context.env).issuer or (project_id or caller.project_id) is None:
        return None
    there = context.callers.of_user(user_id, invite.organization_id, project_id)
    new = NewKey(f"invitation {invite.id}", there.scopes)
    return api_key(*context.keys.create(there.owner, new, actor=there))


handle = function(build)
