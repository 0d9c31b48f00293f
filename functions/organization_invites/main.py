"""/v1/organization/invites: invitations, in OpenAI's format. Only the response that creates one has its token."""

from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas import openai as schemas
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.lists import InviteCursor, Limit, list_response
from llmariner.settings import IdentitySettings
from llmariner.tenancy.invitations.store import Invites, ProjectGrant
from llmariner.tenancy.organizations.queries import OrganizationQueries, Paging
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_org_admin("api.organizations.users.read")]
Writer = Annotated[Caller, require_org_admin("api.organizations.users.write")]


class InviteProject(Body):
    """A project that the invited user joins."""

    id: str
    role: str = "member"


class InviteBody(Body):
    """POST of an invitation."""

    email: str
    role: str = "reader"
    projects: list[InviteProject] = Field(default_factory=list)
    expires_in_seconds: int | None = Field(default=None, ge=1)


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_invites", context)
    app.get("/v1/organization/invites")(list_invites)
    app.post("/v1/organization/invites")(create_invite)
    app.get("/v1/organization/invites/{invite_id}")(get_invite)
    app.delete("/v1/organization/invites/{invite_id}")(delete_invite)
    return app


def list_invites(request: Request, caller: Reader, after: InviteCursor = None, limit: Limit = 20) -> dict[str, Any]:
    """All invitations except revoked ones, newest first."""
    rows, more = _queries(request).invites(caller.organization_id, Paging(after, limit))
    return list_response([schemas.invite(row) for row in rows], has_more=more)


def create_invite(request: Request, caller: Writer, body: InviteBody) -> dict[str, Any]:
    """Create an invitation. Only this response has the `token`; the platform sends no e-mail."""
    promises = [ProjectGrant(each.id, each.role) for each in body.projects]
    expiry = {} if body.expires_in_seconds is None else {"expires_in": body.expires_in_seconds}
    created, token = _invites(request).create(caller, body.email, body.role, promises, **expiry)
    return {**get_invite(request, caller, created.id), "token": token}


def get_invite(request: Request, caller: Reader, invite_id: str) -> dict[str, Any]:
    """One invitation."""
    return schemas.invite(_queries(request).invite(caller.organization_id, invite_id))


def delete_invite(request: Request, caller: Writer, invite_id: str) -> dict[str, Any]:
    """Revoke an invitation."""
    _invites(request).revoke(caller, invite_id)
    return schemas.deleted("organization.invite", invite_id)


def _invites(request: Request) -> Invites:
    context = context_of(request)
    keys_only = not IdentitySettings.load(context.env).issuer
    return Invites(context.database, context.secrets.pepper, keys_only=keys_only)


def _queries(request: Request) -> OrganizationQueries:
    return OrganizationQueries(context_of(request).database)


handle = http_function(build)
