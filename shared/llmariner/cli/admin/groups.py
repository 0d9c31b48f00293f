"""`llma admin groups`: roles of the members of identity provider groups."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import (
    complete_assignable_roles,
    complete_groups,
    complete_projects,
    find_record,
    resolve_project,
    resolve_role,
)
from llmariner.cli.support.session import Session

__all__ = ["groups"]

GROUP_ROLES = "organization/sign_in/group_roles"


@click.group(cls=Group)
def groups() -> None:
    """Roles by group membership at the identity provider."""


@groups.command("list")
@pass_session
def list_groups(session: Session) -> None:
    """List the roles of groups."""
    from llmariner.cli.support.output import Column

    document = session.api().get(GROUP_ROLES)
    columns = [
        Column.of("id"),
        Column.of("group"),
        Column.of("role"),
        Column("PROJECT", lambda each: each.get("project_id")),
        Column.of("issuer"),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No group has a role.")


@groups.command()
@click.argument("group")
@click.option(
    "--role",
    metavar="ROLE",
    required=True,
    shell_complete=complete_assignable_roles,
    help="A predefined or custom role.",
)
@click.option(
    "--project",
    "project_name",
    metavar="TITLE_OR_ID",
    shell_complete=complete_projects,
    help="In that project; in the organization unless given.",
)
@pass_session
def create(session: Session, group: str, role: str, project_name: str | None) -> None:
    """Grant the members of GROUP a role, from their next request on."""
    api = session.api()
    body: dict[str, Any] = {"group": group, "role": resolve_role(api, role)}
    if project_name is not None:
        body["project_id"] = resolve_project(session, api, project_name, None)["id"]
    created = api.post(GROUP_ROLES, body)
    where = f"project {project_name}" if project_name else "the organization"
    session.printer.print_message(created, f"Members of {group} are {created.get('role')} in {where}.")


@groups.command()
@click.argument("group", metavar="GROUP_OR_ID", shell_complete=complete_groups)
@pass_session
def delete(session: Session, group: str) -> None:
    """Revoke a group's role, from its members' next request on."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    known = [{**each, "name": each.get("group")} for each in api.get(GROUP_ROLES)["data"]]
    found = find_record("group with a role", known, group, listing="llma admin groups list")
    deleted = api.delete(build_path(GROUP_ROLES, str(found["id"])))
    session.printer.print_message(deleted, f"Members of {found['group']} are no longer {found['role']} by it.")
