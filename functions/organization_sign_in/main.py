"""/v1/organization/sign_in: roles of the issuer's groups in the organization, and the unlinking of users."""

from typing import Annotated, Any

from fastapi import Request
from sqlalchemy import Row

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.groups import require_issuer
from llmariner.http.schemas.bodies import Body
from llmariner.tenancy.groups.group_roles import GroupRoles
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_org_admin("api.organizations.users.read")]
Writer = Annotated[Caller, require_org_admin("api.organizations.users.write")]
InstallationOwner = Annotated[Caller, require_org_admin("api.organizations.users.write", objects="installation")]


class CreateGroupRole(Body):
    """POST /v1/organization/sign_in/group_roles. `project_id` None: a role in the organization."""

    group: str
    role: str
    project_id: str | None = None


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_sign_in", context)
    app.get("/v1/organization/sign_in/group_roles")(list_group_roles)
    app.post("/v1/organization/sign_in/group_roles")(create_group_role)
    app.delete("/v1/organization/sign_in/group_roles/{group_role_id}")(delete_group_role)
    app.delete("/v1/organization/sign_in/users/{user_id}")(unlink_user)
    return app


def list_group_roles(request: Request, caller: Reader) -> dict[str, Any]:
    """The organization's group roles, of all issuers, oldest first."""
    rows = GroupRoles(context_of(request).database).of_organization(caller.organization_id)
    return {"object": "list", "data": [_serialize(row) for row in rows], "has_more": False}


def create_group_role(request: Request, caller: Writer, body: CreateGroupRole) -> dict[str, Any]:
    """Assign a role to a group of the configured issuer, effective from its members' next request."""
    created = GroupRoles(context_of(request).database).create(
        caller, issuer=require_issuer(request), group=body.group, role=body.role, project_id=body.project_id
    )
    return _serialize(created)


def delete_group_role(request: Request, caller: Writer, group_role_id: str) -> dict[str, Any]:
    """Remove a group role, effective from the members' next request."""
    GroupRoles(context_of(request).database).delete(caller, group_role_id)
    return {"id": group_role_id, "object": "organization.group_role.deleted", "deleted": True}


def unlink_user(request: Request, caller: InstallationOwner, user_id: str) -> dict[str, Any]:
    """Unlink a user from their identity at the issuer; the next sign-in with their e-mail links a new one."""
    identity = context_of(request).identity
    if identity is None:
        raise InvalidRequest("This platform has no issuer, so nobody signs in to it: set LLMARINER_OIDC_ISSUER first.")
    identity.unlink(caller, user_id)
    return {"id": user_id, "object": "organization.user.sign_in.deleted", "deleted": True}


def _serialize(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "organization.group_role",
        "issuer": row.issuer,
        "group": row.group_name,
        "role": row.role,
        "project_id": row.project_id,
        "created_at": row.created_at,
    }


handle = http_function(build)
