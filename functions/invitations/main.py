"""/v1/invitations: the acceptance of an invitation, authenticated by its token only."""

from typing import Any

from fastapi import Request

from llmariner.audit.request_context import client_address
from llmariner.context import Context
from llmariner.errors import NotFound
from llmariner.gateway.authentication.failed_attempts import FailedAttemptLimiter
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.llmariner import api_key, user
from llmariner.settings import GatewaySettings, IdentitySettings
from llmariner.tenancy.invitations.store import AcceptedInvite, Invites
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.members.users import Users


class AcceptInvitation(Body):
    """POST /v1/invitations:accept."""

    token: str


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("invitations", context)
    per_minute = GatewaySettings.load(context.env).unknown_keys_per_minute
    app.state.failed = FailedAttemptLimiter(per_minute, "invitations")
    app.post("/v1/invitations:accept")(accept_invitation)
    return app


def accept_invitation(request: Request, body: AcceptInvitation) -> dict[str, Any]:
    """Add the invited user. On a platform without an issuer only this response has their first key."""
    context = context_of(request)
    keys_only = not IdentitySettings.load(context.env).issuer
    invites = Invites(context.database, context.secrets.pepper, keys_only=keys_only)
    failed, source = request.app.state.failed, client_address.get()
    assert isinstance(failed, FailedAttemptLimiter)
    untrusted_proxy = bool(request.state.untrusted_proxy)
    failed.check(source, untrusted_proxy=untrusted_proxy)
    try:
        accepted = invites.accept(body.token, context.keys if keys_only else None)
    except NotFound:
        failed.record_failure(source, untrusted_proxy=untrusted_proxy)
        raise
    invite = accepted.invite
    return {
        "id": invite.id,
        "object": "organization.invite",
        "status": "accepted",
        "accepted_at": invite.accepted_at,
        "organization_id": invite.organization_id,
        "user": user(Users(context.database).member(accepted.user_id, invite.organization_id)),
        "api_key": _first_key(context, accepted),
    }


def _first_key(context: Context, accepted: AcceptedInvite) -> dict[str, Any] | None:
    """The new user's first key; None on a platform with an issuer."""
    if accepted.first_key is None or accepted.project_id is None:
        return None
    key_id, secret = accepted.first_key
    owner = KeyOwner(accepted.user_id, accepted.project_id, accepted.invite.organization_id)
    return api_key(context.keys.get(owner, key_id), secret)


handle = http_function(build)
