"""/v1/organization/roles: the roles that are there everywhere, and those that the organization made, in OpenAI's shape."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources import roles
from llmariner.http.resources.roles import CreateRoleBody, UpdateRoleBody
from llmariner.http.schemas import openai as shapes
from llmariner.http.schemas.lists import Cursor, Order, RoleLimit
from llmariner.tenancy.organizations.queries import OrganizationQueries
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.custom_roles import CustomRoles

Reader = Annotated[Caller, require_org_admin("api.organizations.users.read")]
Writer = Annotated[Caller, require_org_admin("api.organizations.users.write")]


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_roles", context)
    app.get("/v1/organization/roles")(list_roles)
    app.post("/v1/organization/roles")(create_role)
    app.get("/v1/organization/roles/{role_id}")(get_role)
    app.post("/v1/organization/roles/{role_id}")(update_role)
    app.delete("/v1/organization/roles/{role_id}")(delete_role)
    return app


def list_roles(
    request: Request, caller: Reader, after: Cursor = None, limit: RoleLimit = 1000, order: Order = "asc"
) -> dict[str, Any]:
    """Those that are there everywhere, then the organization's own, oldest first unless asked otherwise."""
    found = shapes.all_roles(_directory(request).roles(caller.organization_id, None), of_projects=False)
    return shapes.roles_page(found, of_projects=False, after=after, limit=limit, order=order)


def create_role(request: Request, caller: Writer, body: CreateRoleBody) -> dict[str, Any]:
    """Make one; only scopes that the caller holds."""
    made = roles.create(_roles(request), caller, body)
    return get_role(request, caller, made.id)


def get_role(request: Request, caller: Reader, role_id: str) -> dict[str, Any]:
    """One of them."""
    made = _directory(request).roles(caller.organization_id, None)
    return shapes.find_role(made, role_id, of_projects=False)


def update_role(request: Request, caller: Writer, role_id: str, body: UpdateRoleBody) -> dict[str, Any]:
    """Change it for everybody who has it; those that are there everywhere don't change."""
    shapes.check_custom_role(get_role(request, caller, role_id))
    roles.update(_roles(request), caller, role_id, body)
    return get_role(request, caller, role_id)


def delete_role(request: Request, caller: Writer, role_id: str) -> dict[str, Any]:
    """Remove it, unless somebody has it."""
    shapes.check_custom_role(get_role(request, caller, role_id))
    _roles(request).delete(caller, role_id)
    return {"id": role_id, "object": "role.deleted", "deleted": True}


def _roles(request: Request) -> CustomRoles:
    return CustomRoles(context_of(request).database)


def _directory(request: Request) -> OrganizationQueries:
    return OrganizationQueries(context_of(request).database)


handle = http_function(build)
