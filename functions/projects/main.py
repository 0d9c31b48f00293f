"""/v1/projects/{id}: roles of users and groups in a project, in OpenAI's format and under its paths."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources import roles
from llmariner.http.resources.groups import check_has_role, groups_of, role_assignment
from llmariner.http.resources.roles import AssignmentBody, CreateRoleBody, UpdateRoleBody
from llmariner.http.schemas import openai as schemas
from llmariner.http.schemas.lists import Cursor, Order, RoleLimit
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.organizations.queries import OrganizationQueries
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.custom_roles import CustomRoles

Reader = Annotated[Caller, require_org_admin("api.organizations.projects.users.read")]
Writer = Annotated[Caller, require_org_admin("api.organizations.projects.users.write")]


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("projects", context)
    of_project, assigned = "/v1/projects/{project_id}/roles", "/v1/projects/{project_id}/users/{user_id}/roles"
    app.get(of_project)(list_roles)
    app.post(of_project)(create_role)
    app.get(f"{of_project}/{{role_id}}")(get_role)
    app.post(f"{of_project}/{{role_id}}")(update_role)
    app.delete(f"{of_project}/{{role_id}}")(delete_role)
    app.get(assigned)(list_user_roles)
    app.post(assigned)(assign_user_role)
    app.get(f"{assigned}/{{role_id}}")(get_user_role)
    app.delete(f"{assigned}/{{role_id}}")(unassign_user_role)
    of_group = "/v1/projects/{project_id}/groups/{group_id}/roles"
    app.get(of_group)(list_group_roles)
    app.post(of_group)(assign_group_role)
    app.get(f"{of_group}/{{role_id}}")(get_group_role)
    app.delete(f"{of_group}/{{role_id}}")(unassign_group_role)
    return app


def list_roles(
    request: Request,
    caller: Reader,
    project_id: str,
    after: Cursor = None,
    limit: RoleLimit = 1000,
    order: Order = "asc",
) -> dict[str, Any]:
    """Predefined project roles, then the project's custom roles, by default oldest first."""
    found = schemas.all_roles(_project_roles(request, caller, project_id), of_projects=True)
    return schemas.roles_page(found, of_projects=True, after=after, limit=limit, order=order)


def create_role(request: Request, caller: Writer, project_id: str, body: CreateRoleBody) -> dict[str, Any]:
    """Create a custom role of the project with scopes that the caller holds."""
    created = roles.create(_roles(request), caller, body, project_id)
    return get_role(request, caller, project_id, created.id)


def get_role(request: Request, caller: Reader, project_id: str, role_id: str) -> dict[str, Any]:
    """One role of the project."""
    return schemas.find_role(_project_roles(request, caller, project_id), role_id, of_projects=True)


def update_role(
    request: Request, caller: Writer, project_id: str, role_id: str, body: UpdateRoleBody
) -> dict[str, Any]:
    """Update a custom role for everyone who has it. Raises InvalidRequest for a predefined role."""
    schemas.check_custom_role(get_role(request, caller, project_id, role_id))
    roles.update(_roles(request), caller, role_id, body)
    return get_role(request, caller, project_id, role_id)


def delete_role(request: Request, caller: Writer, project_id: str, role_id: str) -> dict[str, Any]:
    """Delete a custom role that nobody has. Raises InvalidRequest for a predefined role."""
    schemas.check_custom_role(get_role(request, caller, project_id, role_id))
    _roles(request).delete(caller, role_id)
    return {"id": role_id, "object": "role.deleted", "deleted": True}


def list_user_roles(
    request: Request,
    caller: Reader,
    project_id: str,
    user_id: str,
    after: Cursor = None,
    limit: RoleLimit = 1000,
    order: Order = "asc",
) -> dict[str, Any]:
    """The user's one role in the project."""
    member = _queries(request).project_user(caller.organization_id, project_id, user_id)
    held = [_assigned_role(request, caller, project_id, member.role)]
    return schemas.roles_page(held, of_projects=True, after=after, limit=limit, order=order)


def assign_user_role(
    request: Request, caller: Writer, project_id: str, user_id: str, body: AssignmentBody
) -> dict[str, Any]:
    """Assign a role in the project to the user, in place of the previous role."""
    Members(context_of(request).database).set_role_in_project(caller, project_id, user_id, body.role_id)
    queries = _queries(request)
    memberships = queries.memberships(caller.organization_id, [user_id])[user_id]
    return {
        "object": "user.role",
        "role": _find_assignable(request, caller, project_id, body.role_id),
        "user": schemas.user(queries.person(caller.organization_id, user_id), memberships),
    }


def get_user_role(request: Request, caller: Reader, project_id: str, user_id: str, role_id: str) -> dict[str, Any]:
    """The user's role in the project. Raises NotFound if they have another."""
    member = _queries(request).project_user(caller.organization_id, project_id, user_id)
    schemas.check_has_role(member, role_id)
    return _assigned_role(request, caller, project_id, role_id)


def unassign_user_role(request: Request, caller: Writer, project_id: str, user_id: str, role_id: str) -> dict[str, Any]:
    """Remove a user's role in the project, which leaves the role `viewer`."""
    schemas.check_has_role(_queries(request).project_user(caller.organization_id, project_id, user_id), role_id)
    if role_id == "viewer":
        raise InvalidRequest("A member of a project is at least a viewer: remove the user instead.", param="role_id")
    Members(context_of(request).database).set_role_in_project(caller, project_id, user_id, "viewer")
    return {"object": "user.role.deleted", "deleted": True}


def list_group_roles(
    request: Request,
    caller: Reader,
    project_id: str,
    group_id: str,
    after: Cursor = None,
    limit: RoleLimit = 1000,
    order: Order = "asc",
) -> dict[str, Any]:
    """The group's role in the project: one or none."""
    _project_roles(request, caller, project_id)
    held = groups_of(request).role(groups_of(request).get(caller.organization_id, group_id), project_id)
    found = [] if held is None else [_assigned_role(request, caller, project_id, held.role)]
    return schemas.roles_page(found, of_projects=True, after=after, limit=limit, order=order)


def assign_group_role(
    request: Request, caller: Writer, project_id: str, group_id: str, body: AssignmentBody
) -> dict[str, Any]:
    """Assign a role in the project to the group, in place of its previous role."""
    groups_of(request).grant_role(caller, group_id, body.role_id, project_id)
    group = groups_of(request).get(caller.organization_id, group_id)
    return role_assignment(group, _find_assignable(request, caller, project_id, body.role_id))


def get_group_role(request: Request, caller: Reader, project_id: str, group_id: str, role_id: str) -> dict[str, Any]:
    """The group's role in the project. Raises NotFound if it has another."""
    role = _assigned_role(request, caller, project_id, role_id)
    group = groups_of(request).get(caller.organization_id, group_id)
    check_has_role(group, groups_of(request).role(group, project_id), role_id)
    return role


def unassign_group_role(
    request: Request, caller: Writer, project_id: str, group_id: str, role_id: str
) -> dict[str, Any]:
    """Remove the group's role in the project; its members lose the role."""
    get_group_role(request, caller, project_id, group_id, role_id)
    groups_of(request).revoke_role(caller, group_id, project_id)
    return {"object": "group.role.deleted", "deleted": True}


def _project_roles(request: Request, caller: Caller, project_id: str) -> Any:
    """The project's custom roles. Raises NotFound when the organization has no such project."""
    queries = _queries(request)
    queries.project(caller.organization_id, project_id)
    return queries.roles(caller.organization_id, project_id)


def _find_assignable(request: Request, caller: Caller, project_id: str, role_id: str) -> dict[str, Any]:
    return schemas.find_role(_assignable_roles(request, caller, project_id), role_id, of_projects=True)


def _assigned_role(request: Request, caller: Caller, project_id: str, role_id: str) -> dict[str, Any]:
    return schemas.assigned_role(_assignable_roles(request, caller, project_id), role_id, of_projects=True)


def _assignable_roles(request: Request, caller: Caller, project_id: str) -> list[Any]:
    """The custom roles that can be assigned in the project: its own and the organization's."""
    return [*_project_roles(request, caller, project_id), *_queries(request).roles(caller.organization_id, None)]


def _roles(request: Request) -> CustomRoles:
    return CustomRoles(context_of(request).database)


def _queries(request: Request) -> OrganizationQueries:
    return OrganizationQueries(context_of(request).database)


handle = http_function(build)
