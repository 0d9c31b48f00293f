"""Which organisation, project, user or key a command means by a title, an e-mail or an id; and their names for the shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from llmariner.cli.support.api import Api

__all__ = [
    "complete_admin_keys",
    "complete_budgets",
    "complete_emails",
    "complete_given_roles",
    "complete_groups",
    "complete_invites",
    "complete_keys",
    "complete_limits",
    "complete_organizations",
    "complete_projects",
    "complete_roles",
    "complete_scopes",
    "find",
    "organization",
    "organization_option",
    "project",
    "role",
]

Record = dict[str, Any]
Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

_COMPLETION_SECONDS = 2.0
_EVERYWHERE = ("owner", "reader", "tenant_system", "member", "viewer")


def organization(session: Session, api: Api, said: str | None) -> Record:
    """The organisation of that title or id; None: the one of the context, else the caller's first one."""
    found = api.get("organizations")["organizations"]
    wanted = said or session.target().organization
    if not wanted:
        if not found:
            raise CommandError(
                ExitCode.NOT_FOUND,
                "you are not in any organization.",
                next_step="ask an owner of one to add you, or to invite you.",
            )
        return dict(found[0])
    return find("organization", found, wanted, listing="llma admin organizations list")


def project(session: Session, api: Api, said: str, organization_said: str | None) -> Record:
    """The project of that title or id in an organisation, which is chosen as `organization` does."""
    from llmariner.cli.support.api import path_of

    there = organization(session, api, organization_said)
    found = api.get(path_of("organizations", there["id"], "projects"))["projects"]
    return find("project", found, said, listing=f"llma admin projects list --organization-title '{there['title']}'")


def find(kind: str, records: Iterable[Record], said: str, *, listing: str) -> Record:
    """The record of that id, else the only one of that title or name. CommandError says what lists them."""
    known = list(records)
    if same := [each for each in known if each.get("id") == said]:
        return dict(same[0])
    named = [each for each in known if said in (each.get("title"), each.get("name"), each.get("email"))]
    if not named:
        form = said in ("table", "json", "yaml")
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"there is no {kind} {said!r} that you can see.",
            next_step=f"write --output {said}: here -o is the organization." if form else f"`{listing}` shows them.",
        )
    if len(named) > 1:
        ids = ", ".join(str(each["id"]) for each in named)
        raise CommandError(ExitCode.USAGE, f"{len(named)} are called {said!r}.", next_step=f"give the id: {ids}.")
    return dict(named[0])


def role(api: Api, said: str) -> str:
    """The id of a role that the organisation made and calls so; one that is there everywhere is its own name."""
    known = said.lower().replace("-", "_") in _EVERYWHERE or said.startswith(
        ("role_", "ORGANIZATION_ROLE_", "PROJECT_ROLE_")
    )
    if known:
        return said
    made = [each for each in api.all_pages("organization/roles")["data"] if not each.get("predefined_role")]
    return str(find("role", made, said, listing="llma admin roles list")["id"])


def _names(records: Callable[[Session, Api, click.Context], Iterable[tuple[str, str]]]) -> Complete:
    """A completion that asks the platform. Whatever fails, the shell shows nothing instead."""

    def complete(context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from llmariner.cli.support.api import Api

        session = context.find_object(Session) or Session()
        try:
            with Api(session.fresh_target(), answer_seconds=_COMPLETION_SECONDS) as api:
                found = list(records(session, api, context))
        except Exception:  # an error message would land in the middle of what the user types
            return []
        return [CompletionItem(name, help=note) for name, note in found if name.startswith(incomplete)]

    return complete


def _organizations(_session: Session, api: Api, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["title"], each["id"]) for each in api.get("organizations")["organizations"]]


def _projects(session: Session, api: Api, context: click.Context) -> Iterable[tuple[str, str]]:
    from llmariner.cli.support.api import path_of

    there = organization(session, api, context.params.get("organization_title"))
    found = api.get(path_of("organizations", there["id"], "projects"))["projects"]
    return [(each["title"], each["id"]) for each in found]


def _emails(_session: Session, api: Api, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["id"], each["internal_id"]) for each in api.get("users")["users"]]


def _keys(_session: Session, api: Api, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["name"], each["id"]) for each in api.get("api_keys")["data"]]


def _roles(_session: Session, api: Api, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["name"], each["id"]) for each in api.all_pages("organization/roles")["data"]]


def _given_roles(_session: Session, api: Api, _context: click.Context) -> Iterable[tuple[str, str]]:
    """Those that are there everywhere, also in projects, and those that the organisation made."""
    made = [each for each in api.all_pages("organization/roles")["data"] if not each.get("predefined_role")]
    return [*((each.replace("_", "-"), "") for each in _EVERYWHERE), *((each["name"], each["id"]) for each in made)]


def _scopes(_session: Session, api: Api, _context: click.Context) -> Iterable[tuple[str, str]]:
    found = api.all_pages("organization/roles")["data"]
    return [(scope, "") for scope in sorted({scope for each in found for scope in each.get("permissions") or ()})]


def _admin_keys(_session: Session, api: Api, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["name"], each["id"]) for each in api.all_pages("organization/admin_api_keys")["data"]]


def _invites(_session: Session, api: Api, _context: click.Context) -> Iterable[tuple[str, str]]:
    found = api.all_pages("organization/invites")["data"]
    return [(each["email"], each["id"]) for each in found if each.get("status") != "accepted"]


def _groups(_session: Session, api: Api, _context: click.Context) -> Iterable[tuple[str, str]]:
    return [(each["group"], each["id"]) for each in api.get("organization/sign_in/group_roles")["data"]]


def _ids(collection: str) -> Callable[[Session, Api, click.Context], Iterable[tuple[str, str]]]:
    return lambda _session, api, _context: [
        (each["id"], f"{each['subject']} {each['subject_id']}") for each in api.get(collection)["data"]
    ]


complete_keys = _names(_keys)
complete_roles = _names(_roles)
complete_given_roles = _names(_given_roles)
complete_scopes = _names(_scopes)
complete_admin_keys = _names(_admin_keys)
complete_invites = _names(_invites)
complete_groups = _names(_groups)
complete_limits = _names(_ids("limits"))
complete_budgets = _names(_ids("budgets"))
complete_organizations = _names(_organizations)
complete_projects = _names(_projects)
complete_emails = _names(_emails)

organization_option = click.option(
    "-o",
    "--organization-title",
    metavar="ORGANIZATION",
    shell_complete=complete_organizations,
    help="Title or id of the organization; else that of the context, or your first one.",
)
