"""Resolves organizations, projects, roles and other records by name or id, and completes their names in the shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from llmariner.cli.support.api import ApiClient

__all__ = [
    "complete_admin_keys",
    "complete_assignable_roles",
    "complete_budgets",
    "complete_clusters",
    "complete_emails",
    "complete_files",
    "complete_groups",
    "complete_invites",
    "complete_keys",
    "complete_limits",
    "complete_organizations",
    "complete_project_clusters",
    "complete_projects",
    "complete_roles",
    "complete_scopes",
    "complete_vector_stores",
    "find_record",
    "organization_option",
    "resolve_cluster",
    "resolve_organization",
    "resolve_project",
    "resolve_project_cluster",
    "resolve_role",
    "resolve_vector_store",
]

Record = dict[str, Any]
CompletionFunction = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

_COMPLETION_SECONDS = 2.0
_BUILTIN_ROLES = ("owner", "reader", "tenant_system", "member", "viewer")


def resolve_organization(session: Session, api: ApiClient, name_or_id: str | None) -> Record:
    """The organization with that title or id; None: the one of the context, else the caller's first one. CommandError."""
    found = api.get("organizations")["organizations"]
    wanted = name_or_id or session.target().organization
    if not wanted:
        if not found:
            raise CommandError(
                ExitCode.NOT_FOUND,
                "you are not in any organization.",
                next_step="ask an owner of one to add you, or to invite you.",
            )
        return dict(found[0])
    return find_record("organization", found, wanted, listing="llma admin organizations list")


def resolve_project(session: Session, api: ApiClient, name_or_id: str, organization_name: str | None) -> Record:
    """The project with that title or id in an organization, which `resolve_organization` selects. CommandError."""
    from llmariner.cli.support.api import build_path

    organization = resolve_organization(session, api, organization_name)
    found = api.get(build_path("organizations", organization["id"], "projects"))["projects"]
    return find_record(
        "project", found, name_or_id, listing=f"llma admin projects list --organization-title '{organization['title']}'"
    )


def find_record(kind: str, records: Iterable[Record], name_or_id: str, *, listing: str) -> Record:
    """The record with that id, else the only one with that title, name or e-mail. CommandError, which names `listing`."""
    candidates = list(records)
    if by_id := [each for each in candidates if each.get("id") == name_or_id]:
        return dict(by_id[0])
    by_name = [each for each in candidates if name_or_id in (each.get("title"), each.get("name"), each.get("email"))]
    if not by_name:
        is_format = name_or_id in ("table", "json", "yaml")
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"there is no {kind} {name_or_id!r} that you can see.",
            next_step=f"write --output {name_or_id}: here -o is the organization."
            if is_format
            else f"`{listing}` shows them.",
        )
    if len(by_name) > 1:
        ids = ", ".join(str(each["id"]) for each in by_name)
        raise CommandError(
            ExitCode.USAGE, f"{len(by_name)} are called {name_or_id!r}.", next_step=f"give the id: {ids}."
        )
    return dict(by_name[0])


def resolve_cluster(api: ApiClient, name_or_id: str) -> Record:
    """The organization's cluster with that id or name. CommandError."""
    found = api.all_pages("clusters", limit=100)["data"]
    return find_record("cluster", found, name_or_id, listing="llma admin clusters list")


def resolve_project_cluster(api: ApiClient, name_or_id: str) -> Record:
    """The cluster with that id or name on which the caller's project may run jobs. CommandError."""
    found = api.all_pages("jobs/clusters", limit=100)["data"]
    return find_record("cluster", found, name_or_id, listing="llma clusters list")


def resolve_role(api: ApiClient, name_or_id: str) -> str:
    """The id of the organization's custom role with that name; names of predefined roles unchanged. CommandError."""
    is_predefined = name_or_id.lower().replace("-", "_") in _BUILTIN_ROLES or name_or_id.startswith(
        ("role_", "ORGANIZATION_ROLE_", "PROJECT_ROLE_")
    )
    if is_predefined:
        return name_or_id
    custom = [each for each in api.all_pages("organization/roles")["data"] if not each.get("predefined_role")]
    return str(find_record("role", custom, name_or_id, listing="llma admin roles list")["id"])


def resolve_vector_store(api: ApiClient, name_or_id: str) -> Record:
    """The vector store with that id, else the only one with that name. CommandError."""
    from llmariner.cli.support.api import build_path

    if name_or_id.startswith("vs_"):
        try:
            return api.get(build_path("vector_stores", name_or_id))
        except CommandError as failure:
            if failure.code != ExitCode.NOT_FOUND:
                raise
    found = api.all_pages("vector_stores", name=name_or_id, limit=100)["data"]
    return find_record("vector store", found, name_or_id, listing="llma storage vector-stores list")


def _completer(records: Callable[[Session, ApiClient, click.Context], Iterable[tuple[str, str]]]) -> CompletionFunction:
    """A shell completion from the platform's records; empty on any failure."""

    def complete(context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from llmariner.cli.support.api import ApiClient

        session = context.find_object(Session) or Session()
        try:
            with ApiClient(session.authenticated_target(), timeout_seconds=_COMPLETION_SECONDS) as api:
                found = list(records(session, api, context))
        except Exception:  # an error message would appear inside the command line being typed
            return []
        return [CompletionItem(name, help=note) for name, note in found if name.startswith(incomplete)]

    return complete


def _organizations(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["title"], each["id"]) for each in api.get("organizations")["organizations"]]


def _projects(session: Session, api: ApiClient, context: click.Context) -> Iterable[tuple[str, str]]:
    from llmariner.cli.support.api import build_path

    organization = resolve_organization(session, api, context.params.get("organization_title"))
    found = api.get(build_path("organizations", organization["id"], "projects"))["projects"]
    return [(each["title"], each["id"]) for each in found]


def _emails(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["id"], each["internal_id"]) for each in api.get("users")["users"]]


def _keys(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["name"], each["id"]) for each in api.get("api_keys")["data"]]


def _roles(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["name"], each["id"]) for each in api.all_pages("organization/roles")["data"]]


def _assignable_roles(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    """The predefined roles of organizations and projects, and the organization's custom roles."""
    custom = [each for each in api.all_pages("organization/roles")["data"] if not each.get("predefined_role")]
    return [
        *((each.replace("_", "-"), "") for each in _BUILTIN_ROLES),
        *((each["name"], each["id"]) for each in custom),
    ]


def _scopes(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    found = api.all_pages("organization/roles")["data"]
    return [(scope, "") for scope in sorted({scope for each in found for scope in each.get("permissions") or ()})]


def _admin_keys(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["name"], each["id"]) for each in api.all_pages("organization/admin_api_keys")["data"]]


def _invites(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    found = api.all_pages("organization/invites")["data"]
    return [(each["email"], each["id"]) for each in found if each.get("status") != "accepted"]


def _groups(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["group"], each["id"]) for each in api.get("organization/sign_in/group_roles")["data"]]


def _ids(collection: str) -> Callable[[Session, ApiClient, click.Context], Iterable[tuple[str, str]]]:
    return lambda _session, api, _context: [
        (each["id"], f"{each['subject']} {each['subject_id']}") for each in api.get(collection)["data"]
    ]


def _files(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["id"], each["filename"]) for each in api.get("files", limit=100)["data"]]


def _clusters(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["name"], each["id"]) for each in api.get("clusters", limit=100)["data"]]


def _project_clusters(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["name"], each["id"]) for each in api.get("jobs/clusters", limit=100)["clusters"]]


def _vector_stores(_session: Session, api: ApiClient, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["name"] or each["id"], each["id"]) for each in api.get("vector_stores", limit=100)["data"]]


complete_keys = _completer(_keys)
complete_vector_stores = _completer(_vector_stores)
complete_files = _completer(_files)
complete_roles = _completer(_roles)
complete_assignable_roles = _completer(_assignable_roles)
complete_scopes = _completer(_scopes)
complete_admin_keys = _completer(_admin_keys)
complete_invites = _completer(_invites)
complete_groups = _completer(_groups)
complete_limits = _completer(_ids("limits"))
complete_clusters = _completer(_clusters)
complete_project_clusters = _completer(_project_clusters)
complete_budgets = _completer(_ids("budgets"))
complete_organizations = _completer(_organizations)
complete_projects = _completer(_projects)
complete_emails = _completer(_emails)

organization_option = click.option(
    "-o",
    "--organization-title",
    metavar="ORGANIZATION",
    shell_complete=complete_organizations,
    help="Title or id of the organization; else that of the context, or your first one.",
)
