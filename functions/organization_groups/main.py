"""/v1/organization/groups: groups of the issuer and what they are in the organization, in OpenAI's admin shape."""

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
from llmariner.http.schemas import openai as shapes
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
    """All that the organization knows, oldest first unless asked otherwise."""
    found = [group_object(group) for group in groups_of(request).of_organization(caller.organization_id)]
    return paginate_with_next(found, after=after, limit=limit, order=order)


def create_group(request: Request, caller: Writer, body: GroupBody) -> dict[str, Any]:
    """Make a group of the present issuer known, so that it can be given roles."""
    return group_object(groups_of(request).create(caller, require_issuer(request), body.name))


def get_group(request: Request, caller: Reader, group_id: str) -> dict[str, Any]:
    """One of them."""
    return group_object(groups_of(request).get(caller.organization_id, group_id))


def update_group(request: Request, caller: Writer, group_id: str, body: GroupBody) -> dict[str, Any]:
    """Follow a group that was renamed at its issuer; whoever is in the one of that name now has its roles."""
    return group_object(groups_of(request).rename(caller, group_id, body.name))


def delete_group(request: Request, caller: Writer, group_id: str) -> dict[str, Any]:
    """Forget it; its roles end, and with them what they gave."""
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
    """The one role that it has in the organization, or none."""
    group = groups_of(request).get(caller.organization_id, group_id)
    held = groups_of(request).role(group, None)
    found = [] if held is None else [_assigned_role(request, caller, held.role)]
    return shapes.roles_page(found, of_projects=False, after=after, limit=limit, order=order)


def assign_role(request: Request, caller: Writer, group_id: str, body: AssignmentBody) -> dict[str, Any]:
    """Give it that role in the organization; it takes the place of the one before."""
    groups_of(request).grant_role(caller, group_id, body.role_id, None)
    group = groups_of(request).get(caller.organization_id, group_id)
    return role_assignment(group, _role(request, caller, body.role_id))


def get_role(request: Request, caller: Reader, group_id: str, role_id: str) -> dict[str, Any]:
    """Its role, if it is that one."""
    group = groups_of(request).get(caller.organization_id, group_id)
    check_has_role(group, groups_of(request).role(group, None), role_id)
    return _assigned_role(request, caller, role_id)


def unassign_role(request: Request, caller: Writer, group_id: str, role_id: str) -> dict[str, Any]:
    """Take it from the group, which is nothing in the organization then."""
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
    """The organization's people who are in it, as far as their tokens said; who never signed in is not among them."""
    groups = groups_of(request)
    rows, more = groups.members(groups.get(caller.organization_id, group_id), Paging(after, limit, order))
    return list_response_with_next([group_user(row) for row in rows], has_more=more)


def get_member(request: Request, caller: Reader, group_id: str, user_id: str) -> dict[str, Any]:
    """One of them."""
    groups = groups_of(request)
    return group_user(groups.member(groups.get(caller.organization_id, group_id), user_id))


def add_member(request: Request, caller: Writer, group_id: str, body: GroupUserBody) -> dict[str, Any]:
    """Not here: the issuer says who is in a group."""
    raise _managed_by_issuer(request, caller, group_id)


def remove_member(request: Request, caller: Writer, group_id: str, user_id: str) -> dict[str, Any]:
    """Not here, either."""
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
    made = OrganizationQueries(context_of(request).database).roles(caller.organization_id, None)
    return shapes.find_role(made, role_id, of_projects=False)


def _assigned_role(request: Request, caller: Caller, role_id: str) -> dict[str, Any]:
    made = OrganizationQueries(context_of(request).database).roles(caller.organization_id, None)
    return shapes.assigned_role(made, role_id, of_projects=False)


handle = http_function(build)
