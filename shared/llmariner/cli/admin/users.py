"""`llma admin users`: list visible users, change their roles, and unlink their sign-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.enumerations import role_name
from llmariner.cli.support.resolvers import (
    complete_assignable_roles,
    complete_emails,
    complete_projects,
    find_record,
    resolve_project,
    resolve_role,
)
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.api import ApiClient

__all__ = ["users"]


@click.group(cls=Group)
def users() -> None:
    """Users and their roles."""


@users.command("list")
@pass_session
def list_users(session: Session) -> None:
    """List users with their roles.

    Owners see all of their organization, others the members of their projects.
    """
    from llmariner.cli.support.output import Column

    document = session.api().get("users")
    columns = [
        Column.of("id", "EMAIL"),
        Column("KIND", lambda each: "service account" if each.get("is_service_account") else "person"),
        Column("ORGANIZATION ROLE", lambda each: _roles(each.get("organization_role_bindings"), titles=False)),
        Column("PROJECT ROLES", lambda each: _roles(each.get("project_role_bindings"), titles=True)),
        Column.of("internal_id", "ID"),
    ]
    session.printer.print_records(document, document["users"], columns, empty="You see nobody.")


@users.command()
@click.argument("user", metavar="EMAIL_OR_ID", shell_complete=complete_emails)
@pass_session
def unlink(session: Session, user: str) -> None:
    """Unlink a user from an issuer, so that another can be linked.

    The next sign-in with their e-mail is linked to them. For owners of the default organization.
    """
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = _find(api, user)
    deleted = api.delete(build_path("organization", "sign_in", "users", str(found["id"])))
    session.printer.print_message(deleted, f"{found['email']} is linked again at the next sign-in.")


@users.command("set-role")
@click.argument("email", metavar="EMAIL_OR_ID", shell_complete=complete_emails)
@click.option(
    "--role",
    required=True,
    metavar="ROLE",
    shell_complete=complete_assignable_roles,
    help="A predefined or custom role.",
)
@click.option(
    "--project",
    metavar="TITLE_OR_ID",
    shell_complete=complete_projects,
    help="In this project; else in the organization.",
)
@pass_session
def set_role(session: Session, email: str, role: str, project: str | None) -> None:
    """Change a user's role.

    In your organization, or in a project of it.
    """
    from llmariner.cli.support.api import build_path

    api = session.api()
    user = _find(api, email)
    body = {"role": resolve_role(api, role).lower().replace("-", "_")}
    if project is None:
        where, path = "the organization", build_path("organization/users", user["id"])
    else:
        target_project = resolve_project(session, api, project, None)
        where, path = (
            target_project["title"],
            build_path("organization/projects", target_project["id"], "users", user["id"]),
        )
    answer = api.post(path, body)
    session.printer.print_message(answer, f"{user['email']} is {answer.get('role')} in {where} from now on.")


def _find(api: ApiClient, name_or_id: str) -> dict[str, Any]:
    known = [{**each, "id": each["internal_id"], "email": each["id"]} for each in api.get("users")["users"]]
    return find_record("user", known, name_or_id, listing="llma admin users list")


def _roles(bindings: Any, *, titles: bool) -> str:
    """The role bindings as text: `Vision: member, Speech: owner`, or the roles without titles."""
    found = [(str(each.get("title") or each.get("project_id")), role_name(each)) for each in bindings or ()]
    return ", ".join(f"{title}: {role}" if titles else role for title, role in found)
