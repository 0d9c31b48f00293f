"""/v1/organization/roles: predefined roles and the organization's custom roles, in OpenAI's format."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources import roles
from llmariner.http.resources.roles import CreateRoleBody, UpdateRoleBody
from llmariner.http.schemas import openai as schemas
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
    """Predefined roles, then the organization's custom roles, by default oldest first."""
    found = schemas.all_roles(_queries(request).roles(caller.organization_id, None), of_projects=False)
    return schemas.roles_page(found, of_projects=False, after=after, limit=limit, order=order)


def create_role(request: Request, caller: Writer, body: CreateRoleBody) -> dict[str, Any]:
    """Create a custom role with scopes that the caller holds."""
    created = roles.create(_roles(request), caller, body)
    return get_role(request, caller, created.id)


def get_role(request: Request, caller: Reader, role_id: str) -> dict[str, Any]:
    """One role."""
    custom_roles = _queries(request).roles(caller.organization_id, None)
    return schemas.find_role(custom_roles, role_id, of_projects=False)


def update_role(request: Request, caller: Writer, role_id: str, body: UpdateRoleBody) -> dict[str, Any]:
    """Update a custom role for everyone who has it. Raises InvalidRequest for a predefined role."""
    schemas.check_custom_role(get_role(request, caller, role_id))
    roles.update(_roles(request), caller, role_id, body)
    return get_role(request, caller, role_id)


def delete_role(request: Request, caller: Writer, role_id: str) -> dict[str, Any]:
    """Delete a custom role that nobody has. Raises InvalidRequest for a predefined role."""
    schemas.check_custom_role(get_role(request, caller, role_id))
    _roles(request).delete(caller, role_id)
    return {"id": role_id, "object": "role.deleted", "deleted": True}


def _roles(request: Request) -> CustomRoles:
    return CustomRoles(context_of(request).database)


def _queries(request: Request) -> OrganizationQueries:
    return OrganizationQueries(context_of(request).database)


handle = http_function(build)
