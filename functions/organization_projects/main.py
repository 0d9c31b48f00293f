"""/v1/organization/projects: projects, their users, groups, service accounts, keys and models, in OpenAI's format."""

import time
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import Field

from llmariner.context import Context
from llmariner.errors import InvalidRequest, NotFound
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import check_org_admin, require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.groups import ProjectGroupBody, groups_of, project_group
from llmariner.http.schemas import openai as schemas
from llmariner.http.schemas.bodies import Body, rename_error_fields
from llmariner.http.schemas.lists import (
    GroupCursor,
    KeyCursor,
    Limit,
    Order,
    ProjectCursor,
    UserCursor,
    list_response,
    paginate_with_next,
)
from llmariner.tenancy.keys.store import ApiKey, KeyOwner, KeySelector, NewKey
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.members.service_accounts import ServiceAccounts
from llmariner.tenancy.organizations.projects import NewProject, Projects
from llmariner.tenancy.organizations.queries import KeyAccess, OrganizationQueries, Paging
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.delegation import has_full_owner_rights, held_scopes
from llmariner.tenancy.roles.effective_permissions import resolve_permissions
from llmariner.tenancy.roles.scopes import validate_scopes

Reader = Annotated[Caller, require_org_admin("api.organizations.projects.read")]
Writer = Annotated[Caller, require_org_admin("api.organizations.projects.write")]
UsersReader = Annotated[Caller, require_org_admin("api.organizations.projects.users.read")]
UsersWriter = Annotated[Caller, require_org_admin("api.organizations.projects.users.write")]
KeysReader = Annotated[Caller, require_org_admin("api.organizations.projects.api_keys.read")]
KEYS_WRITE = "api.organizations.projects.api_keys.write"
KeysWriter = Annotated[Caller, require_org_admin(KEYS_WRITE)]

Seconds = Annotated[int | None, Field(ge=1, le=10 * 365 * 86400)]
_PREFIX = "/v1/organization/projects"


class ProjectBody(Body):
    """POST of a project. OpenAI's last three fields are accepted and ignored."""

    name: str | None = None
    external_key_id: str | None = None
    geography: str | None = None
    residency: str | None = None


class ModelPermissionsBody(Body):
    """POST of a project's model permissions."""

    mode: Literal["allow_list", "deny_list"]
    model_ids: list[str]


class AddUserBody(Body):
    """POST to a project's users: a user of the organization, by id or e-mail."""

    role: str
    user_id: str | None = None
    email: str | None = None


class UpdateUserBody(Body):
    """POST of a project's user."""

    role: str | None = None


class CreateAccountBody(Body):
    """POST to a project's service accounts."""

    name: str
    role: str = "member"
    create_service_account_only: bool | None = None
    expires_in_seconds: Seconds = None


class UpdateAccountBody(Body):
    """POST of a service account."""

    name: str | None = None
    role: str | None = None


class CreateKeyBody(Body):
    """POST to the keys of a service account, or to those of a project for a key of the caller."""

    name: str = ""
    scopes: list[str] | None = None
    expires_in_seconds: Seconds = None


class UpdateKeyBody(Body):
    """POST of a key."""

    scopes: list[str] | None = None
    expires_in_seconds: Seconds = None


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_projects", context)
    one, users, accounts, keys = (
        f"{_PREFIX}/{{project_id}}{rest}" for rest in ("", "/users", "/service_accounts", "/api_keys")
    )
    app.get(_PREFIX)(list_projects)
    app.post(_PREFIX)(create_project)
    app.get(one)(get_project)
    app.post(one)(update_project)
    app.post(f"{one}/archive")(archive_project)
    app.get(f"{one}/model_permissions")(get_model_permissions)
    app.post(f"{one}/model_permissions")(set_model_permissions)
    app.delete(f"{one}/model_permissions")(clear_model_permissions)
    app.get(users)(list_users)
    app.post(users)(add_user)
    app.get(f"{users}/{{user_id}}")(get_user)
    app.post(f"{users}/{{user_id}}")(update_user)
    app.delete(f"{users}/{{user_id}}")(remove_user)
    app.get(accounts)(list_accounts)
    app.post(accounts)(create_account)
    app.get(f"{accounts}/{{account_id}}")(get_account)
    app.post(f"{accounts}/{{account_id}}")(update_account)
    app.delete(f"{accounts}/{{account_id}}")(delete_account)
    app.post(f"{accounts}/{{account_id}}/api_keys")(create_account_key)
    app.get(f"{one}/groups")(list_groups)
    app.post(f"{one}/groups")(add_group)
    app.get(f"{one}/groups/{{group_id}}")(get_group)
    app.delete(f"{one}/groups/{{group_id}}")(remove_group)
    app.get(keys)(list_keys)
    app.post(keys)(create_key)
    app.get(f"{keys}/{{key_id}}")(get_key)
    app.post(f"{keys}/{{key_id}}")(update_key)
    app.delete(f"{keys}/{{key_id}}")(delete_key)
    return app


def list_projects(
    request: Request, caller: Reader, after: ProjectCursor = None, limit: Limit = 20, include_archived: bool = False
) -> dict[str, Any]:
    """The organization's projects, newest first."""
    rows, more = _queries(request).projects(caller.organization_id, Paging(after, limit), archived=include_archived)
    return list_response([schemas.project(row) for row in rows], has_more=more)


def create_project(request: Request, caller: Writer, body: ProjectBody) -> dict[str, Any]:
    """Create a project; the organization's owners own it."""
    if body.name is None:
        raise InvalidRequest("Missing required parameter: 'name'.", param="name", code="missing_required_parameter")
    with rename_error_fields(title="name"):
        created = _projects(request).create(caller, NewProject(body.name))
    return _project_object(request, caller, created.id)


def get_project(request: Request, caller: Reader, project_id: str) -> dict[str, Any]:
    """One project, archived or not."""
    return _project_object(request, caller, project_id)


def update_project(request: Request, caller: Writer, project_id: str, body: ProjectBody) -> dict[str, Any]:
    """Rename a project."""
    if body.name is not None:
        with rename_error_fields(title="name"):
            _projects(request).rename(caller, project_id, body.name)
    return _project_object(request, caller, project_id)


def archive_project(request: Request, caller: Writer, project_id: str) -> dict[str, Any]:
    """Archive a project; its keys are invalid from then on."""
    _projects(request).archive(caller, project_id)
    return _project_object(request, caller, project_id)


def get_model_permissions(request: Request, caller: Reader, project_id: str) -> dict[str, Any]:
    """The models that the project may use."""
    return schemas.model_permissions(_queries(request).project(caller.organization_id, project_id))


def set_model_permissions(
    request: Request, caller: Writer, project_id: str, body: ModelPermissionsBody
) -> dict[str, Any]:
    """Allow only the given models, or all except them."""
    mode = "allow" if body.mode == "allow_list" else "deny"
    _projects(request).set_models(caller, project_id, mode, body.model_ids)
    return get_model_permissions(request, caller, project_id)


def clear_model_permissions(request: Request, caller: Writer, project_id: str) -> dict[str, Any]:
    """Allow all models."""
    _projects(request).set_models(caller, project_id, None, ())
    return {"object": "project.model_permissions.deleted", "deleted": True}


def list_users(
    request: Request, caller: UsersReader, project_id: str, after: UserCursor = None, limit: Limit = 20
) -> dict[str, Any]:
    """The project's users, newest members first."""
    rows, more = _queries(request).project_users(caller.organization_id, project_id, Paging(after, limit))
    return list_response([schemas.project_user(row) for row in rows], has_more=more)


def add_user(request: Request, caller: UsersWriter, project_id: str, body: AddUserBody) -> dict[str, Any]:
    """Add a user of the organization to the project."""
    user_id = body.user_id
    if user_id is None and body.email is None:
        raise InvalidRequest("Say who: 'user_id' or 'email'.", param="user_id")
    if body.email is not None:
        named = _queries(request).person_with_email(caller.organization_id, body.email).id
        if user_id not in (None, named):
            raise InvalidRequest("'user_id' and 'email' are of two people: send one of them.", param="email")
        user_id = named
    Members(context_of(request).database).add_to_project(caller, project_id, str(user_id), body.role)
    return get_user(request, caller, project_id, str(user_id))


def get_user(request: Request, caller: UsersReader, project_id: str, user_id: str) -> dict[str, Any]:
    """One user of the project."""
    return schemas.project_user(_queries(request).project_user(caller.organization_id, project_id, user_id))


def update_user(
    request: Request, caller: UsersWriter, project_id: str, user_id: str, body: UpdateUserBody
) -> dict[str, Any]:
    """Change a user's role in the project."""
    if body.role is not None:
        Members(context_of(request).database).set_role_in_project(caller, project_id, user_id, body.role)
    return get_user(request, caller, project_id, user_id)


def remove_user(request: Request, caller: UsersWriter, project_id: str, user_id: str) -> dict[str, Any]:
    """Remove a user from the project and revoke their keys there."""
    removed = Members(context_of(request).database).remove_from_project(caller, project_id, user_id)
    return {**schemas.deleted("organization.project.user", user_id), "removed": removed}


def list_groups(
    request: Request,
    caller: UsersReader,
    project_id: str,
    after: GroupCursor = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> dict[str, Any]:
    """The issuer's groups that have a role in the project, in the order of their assignment."""
    return paginate_with_next(
        _project_groups(request, caller, project_id), after=after, limit=limit, order=order, name="group_id"
    )


def add_group(request: Request, caller: UsersWriter, project_id: str, body: ProjectGroupBody) -> dict[str, Any]:
    """Assign a role in the project to a group, in place of its previous role."""
    groups_of(request).grant_role(caller, body.group_id, body.role, project_id)
    return get_group(request, caller, project_id, body.group_id)


def get_group(
    request: Request,
    caller: UsersReader,
    project_id: str,
    group_id: str,
    group_type: Literal["group", "tenant_group"] = "group",
) -> dict[str, Any]:
    """One group that has a role in the project. Raises NotFound for `tenant_group`, of which there are none."""
    found = [group for group in _project_groups(request, caller, project_id) if group["group_id"] == group_id]
    if not found or group_type == "tenant_group":
        raise NotFound(f"No group with id '{group_id}' in the project '{project_id}'.", param="group_id")
    return found[0]


def remove_group(request: Request, caller: UsersWriter, project_id: str, group_id: str) -> dict[str, Any]:
    """Remove a group's role in the project; its members lose the role."""
    get_group(request, caller, project_id, group_id)
    groups_of(request).revoke_role(caller, group_id, project_id)
    return {"object": "project.group.deleted", "deleted": True}


def list_accounts(
    request: Request, caller: UsersReader, project_id: str, after: UserCursor = None, limit: Limit = 20
) -> dict[str, Any]:
    """The project's service accounts, newest first."""
    rows, more = _queries(request).service_accounts(caller.organization_id, project_id, Paging(after, limit))
    return list_response([schemas.service_account(row) for row in rows], has_more=more)


def create_account(request: Request, caller: UsersWriter, project_id: str, body: CreateAccountBody) -> dict[str, Any]:
    """Create a service account and, by default, a key. Only this response has the key's secret."""
    if not body.create_service_account_only:
        check_org_admin(request, caller, KEYS_WRITE)
    created = _accounts(request).create(caller, project_id, body.name, role=body.role)
    response: dict[str, Any] = {**get_account(request, caller, project_id, created.id), "api_key": None}
    if not body.create_service_account_only:
        key = CreateKeyBody(name="Secret Key", expires_in_seconds=body.expires_in_seconds)
        response["api_key"] = create_account_key(request, caller, project_id, created.id, key)
    return response


def get_account(request: Request, caller: UsersReader, project_id: str, account_id: str) -> dict[str, Any]:
    """One service account of the project."""
    return schemas.service_account(_queries(request).service_account(caller.organization_id, project_id, account_id))


def update_account(
    request: Request, caller: UsersWriter, project_id: str, account_id: str, body: UpdateAccountBody
) -> dict[str, Any]:
    """Change the name or role of a service account."""
    if body.name is not None or body.role is not None:
        _accounts(request).update(caller, project_id, account_id, name=body.name, role=body.role)
    return get_account(request, caller, project_id, account_id)


def delete_account(request: Request, caller: UsersWriter, project_id: str, account_id: str) -> dict[str, Any]:
    """Delete a service account and revoke its keys."""
    removed = _accounts(request).delete(caller, project_id, account_id)
    return {**schemas.deleted("organization.project.service_account", account_id), "removed": removed}


def create_account_key(
    request: Request, caller: KeysWriter, project_id: str, account_id: str, body: CreateKeyBody
) -> dict[str, Any]:
    """Create a key of a service account. Only this response has its secret."""
    _queries(request).service_account(caller.organization_id, project_id, account_id)
    key, secret = _make_key(request, caller, project_id, account_id, body)
    return {**schemas.service_account_key(key, secret), "object": "organization.project.service_account.api_key"}


def list_keys(
    request: Request,
    caller: KeysReader,
    project_id: str,
    after: KeyCursor = None,
    limit: Limit = 20,
    owner_project_access: KeyAccess = "any",
) -> dict[str, Any]:
    """The project's active keys, newest first, with the prefixes of their secrets."""
    paging = Paging(after, limit)
    rows, more = _queries(request).project_keys(caller.organization_id, project_id, paging, owner_project_access)
    return list_response([schemas.project_key(row) for row in rows], has_more=more)


def create_key(request: Request, caller: KeysWriter, project_id: str, body: CreateKeyBody) -> dict[str, Any]:
    """Create a key of the caller, an addition to OpenAI's API. Only this response has its secret."""
    key, secret = _make_key(request, caller, project_id, caller.user_id, body)
    return {**get_key(request, caller, project_id, key.id), "value": secret}


def get_key(request: Request, caller: KeysReader, project_id: str, key_id: str) -> dict[str, Any]:
    """One key of the project."""
    return schemas.project_key(_queries(request).project_key(caller.organization_id, project_id, key_id))


def update_key(
    request: Request, caller: KeysWriter, project_id: str, key_id: str, body: UpdateKeyBody
) -> dict[str, Any]:
    """Change the scopes or the expiry of a key."""
    row = _queries(request).project_key(caller.organization_id, project_id, key_id)
    changes: dict[str, Any] = {}
    if body.scopes is not None:
        changes["scopes"] = _allowed_scopes(request, caller, project_id, row.user_id, body.scopes)
    if body.expires_in_seconds is not None:
        changes["expires_at"] = int(time.time()) + body.expires_in_seconds
    if changes:
        context_of(request).keys.update(
            KeySelector(caller.organization_id, project_id), key_id, **changes, actor=caller
        )
    return get_key(request, caller, project_id, key_id)


def delete_key(request: Request, caller: KeysWriter, project_id: str, key_id: str) -> dict[str, Any]:
    """Revoke a key, effective everywhere within seconds."""
    _queries(request).project(caller.organization_id, project_id)
    context_of(request).keys.revoke(KeySelector(caller.organization_id, project_id), key_id, actor=caller)
    return schemas.deleted("organization.project.api_key", key_id)


def _queries(request: Request) -> OrganizationQueries:
    return OrganizationQueries(context_of(request).database)


def _project_groups(request: Request, caller: Caller, project_id: str) -> list[dict[str, Any]]:
    _queries(request).project(caller.organization_id, project_id)
    rows = groups_of(request).in_project(caller.organization_id, project_id)
    return [project_group(row, project_id) for row in rows]


def _projects(request: Request) -> Projects:
    return Projects(context_of(request).database)


def _accounts(request: Request) -> ServiceAccounts:
    return ServiceAccounts(context_of(request).database)


def _project_object(request: Request, caller: Caller, project_id: str) -> dict[str, Any]:
    return schemas.project(_queries(request).project(caller.organization_id, project_id))


def _make_key(
    request: Request, caller: Caller, project_id: str, user_id: str, body: CreateKeyBody
) -> tuple[ApiKey, str]:
    if _queries(request).project(caller.organization_id, project_id).archived_at is not None:
        raise InvalidRequest("The project is archived; no key of it would be good.", param="project_id")
    new = NewKey(
        name=body.name or f"Key of {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}",
        scopes=_allowed_scopes(request, caller, project_id, user_id, body.scopes),
        expires_in=body.expires_in_seconds,
    )
    return context_of(request).keys.create(KeyOwner(user_id, project_id, caller.organization_id), new, actor=caller)


def _allowed_scopes(
    request: Request, caller: Caller, project_id: str, user_id: str, requested: list[str] | None
) -> frozenset[str]:
    """The scopes of a key of that user: those that the user holds and, unless the caller is an owner, the caller too."""
    with context_of(request).database.read() as session:
        user_scopes = resolve_permissions(session, user_id, caller.organization_id, project_id).scopes
        if not has_full_owner_rights(caller):
            user_scopes &= held_scopes(session, caller, caller.organization_id, project_id)
    return validate_scopes(requested, held=user_scopes)


handle = http_function(build)
