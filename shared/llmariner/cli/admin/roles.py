"""`llma admin roles`: custom roles of the organization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import complete_roles, complete_scopes, find_record
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.api import ApiClient

__all__ = ["roles"]

ROLES = "organization/roles"
_MAX_SCOPES_SHOWN = 3
SCOPES_OPTION = click.option(
    "--scope",
    "scopes",
    metavar="SCOPE",
    multiple=True,
    shell_complete=complete_scopes,
    help="Permission of the role; repeat for several.",
)


@click.group(cls=Group)
def roles() -> None:
    """Custom roles of your organization."""


@roles.command("list")
@pass_session
def list_roles(session: Session) -> None:
    """List roles, with the ids that --role of other commands takes."""
    from llmariner.cli.support.output import Column

    document = session.api().all_pages(ROLES)
    columns = [
        Column.of("id"),
        Column.of("name"),
        Column("MADE HERE", lambda each: None if each.get("predefined_role") else "yes"),
        Column("SCOPES", _scopes),
        Column.of("description"),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No roles.")


@roles.command("get")
@click.argument("role", metavar="NAME_OR_ID", shell_complete=complete_roles)
@pass_session
def get_role(session: Session, role: str) -> None:
    """Show a role with all its scopes."""
    one = _find(session.api(), role)
    fields = {
        "id": one["id"],
        "name": one["name"],
        "description": one.get("description"),
        "scopes": ", ".join(one.get("permissions") or ()),
    }
    session.printer.print_details(one, fields)


@roles.command()
@click.argument("name")
@SCOPES_OPTION
@click.option("--description", help="Description of the role.")
@pass_session
def create(session: Session, name: str, scopes: tuple[str, ...], description: str | None) -> None:
    """Create a role called NAME, with scopes that you have."""
    if not scopes:
        raise click.UsageError("A role needs one --scope at least.")
    fields = {} if description is None else {"description": description}
    created = session.api().post(ROLES, {"role_name": name, "permissions": list(scopes), **fields})
    session.printer.print_message(created, f"Made role {created.get('name')} ({created.get('id')}).")


@roles.command()
@click.argument("role", metavar="NAME_OR_ID", shell_complete=complete_roles)
@click.option("--new-name", help="New name.")
@SCOPES_OPTION
@click.option("--description", help="Description of the role.")
@pass_session
def update(session: Session, role: str, new_name: str | None, scopes: tuple[str, ...], description: str | None) -> None:
    """Change a role for all its holders. Given scopes replace the present ones."""
    from llmariner.cli.support.api import build_path

    fields = {"role_name": new_name, "permissions": list(scopes) or None, "description": description}
    body: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if not body:
        raise click.UsageError("Nothing to change: give --new-name, --scope or --description.")
    api = session.api()
    found = _find(api, role)
    created = api.post(build_path(ROLES, found["id"]), body)
    session.printer.print_message(created, f"Updated role {created.get('name')} ({found['id']}).")


@roles.command()
@click.argument("role", metavar="NAME_OR_ID", shell_complete=complete_roles)
@pass_session
def delete(session: Session, role: str) -> None:
    """Delete a role that is not assigned."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = _find(api, role)
    session.printer.print_message(
        api.delete(build_path(ROLES, found["id"])), f"Deleted role {found['name']} ({found['id']})."
    )


def _find(api: ApiClient, role: str) -> dict[str, Any]:
    return find_record("role", api.all_pages(ROLES)["data"], role, listing="llma admin roles list")


def _scopes(role: Any) -> str:
    scopes = role.get("permissions") or []
    return ", ".join(scopes) if len(scopes) <= _MAX_SCOPES_SHOWN else f"{len(scopes)} scopes"
