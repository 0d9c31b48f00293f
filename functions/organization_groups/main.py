"""/v1/organization/groups: groups of the issuer and their roles in the organization, in OpenAI's format."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.groups import (
    GroupBody,
    GroupUserBody,
    check_has_role,
    group_object,
    group_user,
    groups_of,
    require_issuer,
    role_assignment,
)
from llmariner.http.resources.roles import AssignmentBody
from llmariner.http.schemas import openai as schemas
from llmariner.http.schemas.lists import (
    Cursor,
    GroupCursor,
    LongLimit,
    Order,
    RoleLimit,
    UserCursor,
    list_response_with_next,
    paginate_with_next,
)
from llmariner.tenancy.organizations.queries import OrganizationQueries, Paging
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_org_admin("api.organizations.users.read")]
Writer = Annotated[Caller, require_org_admin("api.organizations.users.write")]
_GROUP = "/v1/organization/groups/{group_id}"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_groups", context)
    app.get("/v1/organization/groups")(list_groups)
    app.post("/v1/organization/groups")(create_group)
    app.get(_GROUP)(get_group)
    app.post(_GROUP)(update_group)
    app.delete(_GROUP)(delete_group)
    app.get(f"{_GROUP}/roles")(list_roles)
    app.post(f"{_GROUP}/roles")(assign_role)
    app.get(f"{_GROUP}/roles/{{role_id}}")(get_role)
    app.delete(f"{_GROUP}/roles/{{role_id}}")(unassign_role)
    app.get(f"{_GROUP}/users")(list_members)
    app.post(f"{_GROUP}/users")(add_member)
    app.get(f"{_GROUP}/users/{{user_id}}")(get_member)
    app.delete(f"{_GROUP}/users/{{user_id}}")(remove_member)
    return app


def list_groups(
    request: Request, caller: Reader, after: GroupCursor = None, limit: LongLimit = 100, order: Order = "asc"
) -> dict[str, Any]:
    """The organization's registered groups, by default oldest first."""
    found = [group_object(group) for group in groups_of(request).of_organization(caller.organization_id)]
    return paginate_with_next(found, after=after, limit=limit, order=order)


def create_group(request: Request, caller: Writer, body: GroupBody) -> dict[str, Any]:
    """Register a group of the configured issuer, so that roles can be assigned to it."""
    return group_object(groups_of(request).create(caller, require_issuer(request), body.name))


def get_group(request: Request, caller: Reader, group_id: str) -> dict[str, Any]:
    """One group."""
    return group_object(groups_of(request).get(caller.organization_id, group_id))


def update_group(request: Request, caller: Writer, group_id: str, body: GroupBody) -> dict[str, Any]:
    """Rename a group as at its issuer. Members of the issuer's group of the new name then have its roles."""
    return group_object(groups_of(request).rename(caller, group_id, body.name))


def delete_group(request: Request, caller: Writer, group_id: str) -> dict[str, Any]:
    """Delete a group with its role assignments; its members lose the roles."""
    ended = groups_of(request).delete(caller, group_id)
    return {"id": group_id, "object": "group.deleted", "deleted": True, "removed": {"group_roles": ended}}


def list_roles(
    request: Request,
    caller: Reader,
    group_id: str,
    after: Cursor = None,
    limit: RoleLimit = 1000,
    order: Order = "asc",
) -> dict[str, Any]:
    """The group's role in the organization: one or none."""
    group = groups_of(request).get(caller.organization_id, group_id)
    held = groups_of(request).role(group, None)
    found = [] if held is None else [_assigned_role(request, caller, held.role)]
    return schemas.roles_page(found, of_projects=False, after=after, limit=limit, order=order)


def assign_role(request: Request, caller: Writer, group_id: str, body: AssignmentBody) -> dict[str, Any]:
    """Assign a role in the organization to the group, in place of its previous role."""
    groups_of(request).grant_role(caller, group_id, body.role_id, None)
    group = groups_of(request).get(caller.organization_id, group_id)
    return role_assignment(group, _role(request, caller, body.role_id))


def get_role(request: Request, caller: Reader, group_id: str, role_id: str) -> dict[str, Any]:
    """The group's role. Raises NotFound if it has another."""
    group = groups_of(request).get(caller.organization_id, group_id)
    check_has_role(group, groups_of(request).role(group, None), role_id)
    return _assigned_role(request, caller, role_id)


def unassign_role(request: Request, caller: Writer, group_id: str, role_id: str) -> dict[str, Any]:
    """Remove the group's role in the organization."""
    get_role(request, caller, group_id, role_id)
    groups_of(request).revoke_role(caller, group_id, None)
    return {"object": "group.role.deleted", "deleted": True}


def list_members(
    request: Request,
    caller: Reader,
    group_id: str,
    after: UserCursor = None,
    limit: LongLimit = 100,
    order: Order = "desc",
) -> dict[str, Any]:
    """The organization's users whose last token named the group; users who never signed in are not included."""
    groups = groups_of(request)
    rows, more = groups.members(groups.get(caller.organization_id, group_id), Paging(after, limit, order))
    return list_response_with_next([group_user(row) for row in rows], has_more=more)


def get_member(request: Request, caller: Reader, group_id: str, user_id: str) -> dict[str, Any]:
    """One user of a group."""
    groups = groups_of(request)
    return group_user(groups.member(groups.get(caller.organization_id, group_id), user_id))


def add_member(request: Request, caller: Writer, group_id: str, body: GroupUserBody) -> dict[str, Any]:
    """Raises InvalidRequest: the issuer manages the members of a group."""
    raise _managed_by_issuer(request, caller, group_id)


def remove_member(request: Request, caller: Writer, group_id: str, user_id: str) -> dict[str, Any]:
    """Raises InvalidRequest: the issuer manages the members of a group."""
    raise _managed_by_issuer(request, caller, group_id)


def _managed_by_issuer(request: Request, caller: Caller, group_id: str) -> InvalidRequest:
    group = groups_of(request).get(caller.organization_id, group_id)
    return InvalidRequest(
        f"Who is in '{group.name}' is kept by its issuer, {group.issuer}: change it there. Somebody who signs in has the "
        "roles of their groups within seconds; for roles of one person use /v1/organization/users/{id}/roles.",
        param="group_id",
        code="managed_by_issuer",
    )


def _role(request: Request, caller: Caller, role_id: str) -> dict[str, Any]:
    custom_roles = OrganizationQueries(context_of(request).database).roles(caller.organization_id, None)
    return schemas.find_role(custom_roles, role_id, of_projects=False)


def _assigned_role(request: Request, caller: Caller, role_id: str) -> dict[str, Any]:
    custom_roles = OrganizationQueries(context_of(request).database).roles(caller.organization_id, None)
    return schemas.assigned_role(custom_roles, role_id, of_projects=False)


handle = http_function(build)
