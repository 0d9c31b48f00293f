"""/v1/organizations: organizations with their users, projects, members and keys, in LLMariner's own format."""

from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from llmariner.context import Context
from llmariner.errors import InvalidRequest, NotFound
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.authorization.path_membership import require_scope_on_path
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources import api_keys
from llmariner.http.resources.api_keys import CreateKey, deletion_response
from llmariner.http.schemas import llmariner as schemas
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.field_masks import merge_masks, parse_mask, unwrap_resource
from llmariner.tenancy.keys.visibility import manageable_by
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.members.users import Users
from llmariner.tenancy.organizations.projects import Assignment, NewProject, Projects
from llmariner.tenancy.organizations.store import Organizations
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import caller_in_organization, can_view_all_projects

InstallationOwner = Annotated[Caller, require_scope("api.organizations.write", objects="installation")]
Member = Annotated[Caller, require_scope("api.organizations.read", objects="member")]
OrganizationWriter = Annotated[Caller, require_scope_on_path("api.organizations.write")]
UsersReader = Annotated[Caller, require_scope_on_path("api.organizations.users.read")]
UsersWriter = Annotated[Caller, require_scope_on_path("api.organizations.users.write")]
PROJECT_WRITE = "api.organizations.projects.write"
ProjectReader = Annotated[Caller, require_scope_on_path("api.organizations.projects.read")]
ProjectWriter = Annotated[Caller, require_scope_on_path(PROJECT_WRITE)]
MemberReader = Annotated[Caller, require_scope_on_path("api.organizations.projects.users.read")]
MemberWriter = Annotated[Caller, require_scope_on_path("api.organizations.projects.users.write")]
KeyReader = Annotated[Caller, require_scope_on_path("api.organizations.projects.api_keys.read", objects="keys")]
KeyCreator = Annotated[Caller, require_scope_on_path("api.organizations.projects.api_keys.write")]
KeyWriter = Annotated[Caller, require_scope_on_path("api.organizations.projects.api_keys.write", objects="keys")]

ORGANIZATION = "/v1/organizations/{organization_id}"
PROJECT = ORGANIZATION + "/projects/{project_id}"


class CreateOrganization(Body):
    """POST /v1/organizations."""

    title: str


class AddMember(Body):
    """POST …/users: `user_id` is an e-mail in any case, or a user's id; the last two, if sent, must match the path."""

    user_id: str
    role: str
    organization_id: str = ""
    project_id: str = ""


class NodeLabel(Body):
    """A required node label."""

    key: str
    value: str = ""


class AssignmentBody(Body):
    """An assignment: `cluster_id` empty means every cluster."""

    namespace: str
    cluster_id: str = ""
    kueue_queue_name: str = ""
    node_selector: list[NodeLabel] = Field(default_factory=list, max_length=50)


AssignmentBodies = Annotated[list[AssignmentBody], Field(default_factory=list, max_length=100)]


class CreateProject(Body):
    """POST …/projects. `organization_id`, if sent, must match the path."""

    title: str
    kubernetes_namespace: str = ""
    assignments: AssignmentBodies
    organization_id: str = ""


class ProjectFields(Body):
    """The mutable fields of a project."""

    title: str = ""
    assignments: AssignmentBodies


class ProjectResource(ProjectFields):
    """A complete project as LLMariner's clients send it, with a mask that names the changed fields."""

    output_only = frozenset(
        {"id", "object", "organization_id", "created_at", "is_default", "kubernetes_namespace", "summary"}
    )


class UpdateProject(ProjectFields):
    """PATCH …/projects/{id}, bare or wrapped in `project`.

    `update_mask` names `title`, `assignments` or both; without a mask the fields that are present change.
    """

    project: ProjectResource | None = None
    update_mask: str = ""


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organizations", context)
    app.get("/v1/organizations")(list_organizations)
    app.post("/v1/organizations")(create_organization)
    app.delete(ORGANIZATION)(delete_organization)
    app.get(ORGANIZATION + "/users")(list_users)
    app.post(ORGANIZATION + "/users")(add_user)
    app.delete(ORGANIZATION + "/users/{user_id}")(remove_user)
    app.get(ORGANIZATION + "/projects")(list_projects)
    app.post(ORGANIZATION + "/projects")(create_project)
    app.patch(PROJECT)(update_project)
    app.delete(PROJECT)(delete_project)
    app.get(PROJECT + "/users")(list_members)
    app.post(PROJECT + "/users")(add_member)
    app.delete(PROJECT + "/users/{user_id}")(remove_member)
    app.get(PROJECT + "/api_keys")(list_keys)
    app.post(PROJECT + "/api_keys")(create_key)
    app.delete(PROJECT + "/api_keys/{key_id}")(delete_key)
    return app


def list_organizations(request: Request, caller: Member, include_summary: bool = False) -> dict[str, Any]:
    """The caller's organizations, the default one first."""
    organizations = Organizations(context_of(request).database)
    found = organizations.accessible_to(caller)
    counts = organizations.summarize([each.id for each in found]) if include_summary else {}
    return {"organizations": [schemas.organization(each, counts.get(each.id)) for each in found]}


def create_organization(request: Request, caller: InstallationOwner, body: CreateOrganization) -> dict[str, Any]:
    """Create an organization, which the caller owns. Requires an owner of the default organization."""
    return schemas.organization(Organizations(context_of(request).database).create(caller, body.title))


def delete_organization(request: Request, caller: OrganizationWriter) -> dict[str, Any]:
    """Delete an organization without projects; the response lists what was deleted with it."""
    removed = Organizations(context_of(request).database).delete(caller)
    return {"id": caller.organization_id, "object": "organization", "deleted": True, "removed": removed}


def list_users(request: Request, caller: UsersReader) -> dict[str, Any]:
    """The organization's users, by e-mail."""
    users = Members(context_of(request).database).all(caller.organization_id)
    return {"users": [schemas.member(each) for each in users]}


def add_user(request: Request, caller: UsersWriter, body: AddMember) -> dict[str, Any]:
    """Add a user, new or existing, to the organization."""
    _check_matches_path("organization_id", body.organization_id, caller.organization_id)
    role = schemas.parse_organization_role(body.role)
    return schemas.member(Members(context_of(request).database).add(caller, body.user_id, role))


def remove_user(request: Request, caller: UsersWriter, user_id: str) -> dict[str, Any]:
    """Remove a user from the organization; the response lists what was deleted with the membership."""
    context = context_of(request)
    removed = Members(context.database).remove(caller, _find_user(context, caller, user_id))
    return {"removed": removed}


def list_projects(request: Request, caller: ProjectReader, include_summary: bool = False) -> dict[str, Any]:
    """All projects of the organization for an owner, the projects of any other user, the own project of a key."""
    projects = Projects(context_of(request).database)
    member = None if can_view_all_projects(caller) else caller.user_id
    found = projects.all(caller.organization_id, member=member)
    if member is not None and caller.key_id is not None:
        found = [each for each in found if each.id == caller.project_id]
    counts = projects.count_members([each.id for each in found]) if include_summary else {}
    return {"projects": [schemas.project(each, counts.get(each.id)) for each in found]}


def create_project(request: Request, caller: OrganizationWriter, body: CreateProject) -> dict[str, Any]:
    """Create a project; the organization's owners own it."""
    _check_matches_path("organization_id", body.organization_id, caller.organization_id)
    new = NewProject(body.title, body.kubernetes_namespace or None, _assignments(body.assignments))
    return schemas.project(Projects(context_of(request).database).create(caller, new))


def update_project(
    request: Request, caller: ProjectWriter, body: UpdateProject, update_mask: str = ""
) -> dict[str, Any]:
    """Rename a project, or change its assignments, which requires the right to create projects."""
    context, project_id = context_of(request), caller.key_owner.project_id
    fields = unwrap_resource(body, body.project, "project")
    changed_fields = _changed_fields(fields, merge_masks(update_mask, body.update_mask))
    projects = Projects(context.database)
    changed = projects.get(caller.organization_id, project_id)
    if "assignments" in changed_fields:
        organization_caller = caller_in_organization(
            context.database, caller, caller.organization_id, "api.organizations.write"
        )
        changed = projects.assign(organization_caller, project_id, _assignments(fields.assignments))
    if "title" in changed_fields:
        changed = projects.rename(caller, project_id, fields.title)
    return schemas.project(changed)


def delete_project(request: Request, caller: ProjectWriter) -> dict[str, Any]:
    """Delete an empty project; the response lists what was deleted with it."""
    project_id = caller.key_owner.project_id
    removed = Projects(context_of(request).database).delete(caller, project_id)
    return {"id": project_id, "object": "project", "deleted": True, "removed": removed}


def list_members(request: Request, caller: MemberReader) -> dict[str, Any]:
    """The project's members, by e-mail."""
    members = Members(context_of(request).database).of_project(caller.organization_id, caller.key_owner.project_id)
    return {"users": [schemas.member(each) for each in members]}


def add_member(request: Request, caller: MemberWriter, body: AddMember) -> dict[str, Any]:
    """Add a user of the organization to the project."""
    _check_matches_path("organization_id", body.organization_id, caller.organization_id)
    _check_matches_path("project_id", body.project_id, caller.key_owner.project_id)
    context, role = context_of(request), schemas.parse_project_role(body.role)
    user_id = Users(context.database).find_id(caller.organization_id, body.user_id)
    if user_id is None:
        raise InvalidRequest(
            f"'{body.user_id}' is no member of the organization: add them to it first.", param="user_id"
        )
    project_id = caller.key_owner.project_id
    return schemas.member(Members(context.database).add_to_project(caller, project_id, user_id, role))


def remove_member(request: Request, caller: MemberWriter, user_id: str) -> dict[str, Any]:
    """Remove a member from the project; the response lists what was deleted with the membership."""
    context, project_id = context_of(request), caller.key_owner.project_id
    user = _find_user(context, caller, user_id)
    return {"removed": Members(context.database).remove_from_project(caller, project_id, user)}


def list_keys(request: Request, caller: KeyReader) -> dict[str, Any]:
    """The project's active keys for its owners, their own keys for other callers."""
    found = context_of(request).keys.matching(manageable_by(caller, caller.key_owner.project_id))
    return {"object": "list", "data": [schemas.api_key(key) for key in found]}


def create_key(request: Request, caller: KeyCreator, body: CreateKey) -> dict[str, Any]:
    """Create a key of the project. Only this response has its secret."""
    _check_matches_path("project_id", body.project_id, caller.key_owner.project_id)
    _check_matches_path("organization_id", body.organization_id, caller.key_owner.organization_id)
    return api_keys.create(context_of(request), caller, body)


def delete_key(request: Request, caller: KeyWriter, key_id: str) -> dict[str, Any]:
    """Revoke a key of the project. A service account is deleted with its last key."""
    context_of(request).keys.revoke(manageable_by(caller, caller.key_owner.project_id), key_id, actor=caller)
    return deletion_response(key_id)


def _check_matches_path(param: str, in_body: str | None, in_path: str) -> None:
    """Raises InvalidRequest for an id in the body that differs from the path's; LLMariner's clients send both."""
    if in_body not in (None, "", in_path):
        raise InvalidRequest(f"'{param}' must be that of the path, {in_path}, or be left out.", param=param)


def _find_user(context: Context, caller: Caller, user: str) -> str:
    found = Users(context.database).find_id(caller.organization_id, user)
    if found is None:
        raise NotFound(f"No user '{user}' in the organization.", param="user_id")
    return found


def _assignments(bodies: list[AssignmentBody]) -> list[Assignment]:
    return [
        Assignment(
            namespace=each.namespace,
            cluster_id=each.cluster_id,
            queue=each.kueue_queue_name,
            node_selector=tuple((label.key, label.value) for label in each.node_selector),
        )
        for each in bodies
    ]


def _changed_fields(fields: ProjectFields, mask: str) -> frozenset[str]:
    changeable = frozenset({"title", "assignments"})
    changed_fields = frozenset(parse_mask(mask, "project")) or changeable & fields.model_fields_set
    if changed_fields - changeable or not changed_fields:
        raise InvalidRequest("'update_mask' must name 'title', 'assignments' or both.", param="update_mask")
    return changed_fields


handle = http_function(build)
