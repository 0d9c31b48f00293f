"""/v1/organization/users: the organization's users and their roles in it, in OpenAI's format."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.roles import AssignmentBody
from llmariner.http.schemas import openai as schemas
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.lists import Cursor, Limit, Order, RoleLimit, UserCursor, filter_values, list_response
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.organizations.queries import OrganizationQueries, Paging
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_org_admin("api.organizations.users.read")]
Writer = Annotated[Caller, require_org_admin("api.organizations.users.write")]


class UpdateUserBody(Body):
    """POST of a user. `role` and `role_id` are synonyms; OpenAI's last two fields are accepted and ignored."""

    role: str | None = None
    role_id: str | None = None
    developer_persona: str | None = None
    technical_level: str | None = None


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_users", context)
    app.get("/v1/organization/users")(list_users)
    app.get("/v1/organization/users/{user_id}")(get_user)
    app.post("/v1/organization/users/{user_id}")(update_user)
    app.delete("/v1/organization/users/{user_id}")(remove_user)
    app.get("/v1/organization/users/{user_id}/roles")(list_roles)
    app.post("/v1/organization/users/{user_id}/roles")(assign_role)
    app.get("/v1/organization/users/{user_id}/roles/{role_id}")(get_role)
    app.delete("/v1/organization/users/{user_id}/roles/{role_id}")(unassign_role)
    return app


def list_users(request: Request, caller: Reader, after: UserCursor = None, limit: Limit = 20) -> dict[str, Any]:
    """The organization's users, newest members first. Filter: emails."""
    paging = Paging(after, limit)
    rows, more = _queries(request).people(caller.organization_id, paging, filter_values(request, "emails"))
    return list_response(_serialize(request, caller, rows), has_more=more)


def get_user(request: Request, caller: Reader, user_id: str) -> dict[str, Any]:
    """One user."""
    [user] = _serialize(request, caller, [_queries(request).person(caller.organization_id, user_id)])
    return user


def update_user(request: Request, caller: Writer, user_id: str, body: UpdateUserBody) -> dict[str, Any]:
    """Change a user's role."""
    if body.role and body.role_id and body.role != body.role_id:
        raise InvalidRequest("Say 'role' or 'role_id', not both.", param="role_id")
    if role := body.role or body.role_id:
        _members(request).set_role(caller, user_id, role)
    return get_user(request, caller, user_id)


def remove_user(request: Request, caller: Writer, user_id: str) -> dict[str, Any]:
    """Remove a user from the organization, with their project memberships and keys."""
    removed = _members(request).remove(caller, user_id)
    return {**schemas.deleted("organization.user", user_id), "removed": removed}


def list_roles(
    request: Request,
    caller: Reader,
    user_id: str,
    after: Cursor = None,
    limit: RoleLimit = 1000,
    order: Order = "asc",
) -> dict[str, Any]:
    """The user's one role in the organization."""
    member = _queries(request).person(caller.organization_id, user_id)
    held = [_assigned_role(request, caller, member.role)]
    return schemas.roles_page(held, of_projects=False, after=after, limit=limit, order=order)


def assign_role(request: Request, caller: Writer, user_id: str, body: AssignmentBody) -> dict[str, Any]:
    """Assign a role to the user, in place of the previous role."""
    _members(request).set_role(caller, user_id, body.role_id)
    role, user = _role(request, caller, body.role_id), get_user(request, caller, user_id)
    return {"object": "user.role", "role": role, "user": user}


def get_role(request: Request, caller: Reader, user_id: str, role_id: str) -> dict[str, Any]:
    """The user's role. Raises NotFound if they have another."""
    member = _queries(request).person(caller.organization_id, user_id)
    schemas.check_has_role(member, role_id)
    return _assigned_role(request, caller, role_id)


def unassign_role(request: Request, caller: Writer, user_id: str, role_id: str) -> dict[str, Any]:
    """Remove a user's role, which leaves the role `reader`."""
    schemas.check_has_role(_queries(request).person(caller.organization_id, user_id), role_id)
    if role_id == "reader":
        raise InvalidRequest("Every member is a reader at least: remove the user instead.", param="role_id")
    _members(request).set_role(caller, user_id, "reader")
    return {"object": "user.role.deleted", "deleted": True}


def _serialize(request: Request, caller: Caller, rows: Any) -> list[dict[str, Any]]:
    memberships = _queries(request).memberships(caller.organization_id, [row.id for row in rows])
    return [schemas.user(row, memberships[row.id]) for row in rows]


def _role(request: Request, caller: Caller, role_id: str) -> dict[str, Any]:
    return schemas.find_role(_queries(request).roles(caller.organization_id, None), role_id, of_projects=False)


def _assigned_role(request: Request, caller: Caller, role_id: str) -> dict[str, Any]:
    custom_roles = _queries(request).roles(caller.organization_id, None)
    return schemas.assigned_role(custom_roles, role_id, of_projects=False)


def _members(request: Request) -> Members:
    return Members(context_of(request).database)


def _queries(request: Request) -> OrganizationQueries:
    return OrganizationQueries(context_of(request).database)


handle = http_function(build)
