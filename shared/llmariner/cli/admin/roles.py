"""`llma admin roles`: roles that the organisation makes of scopes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import complete_roles, complete_scopes, find
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.api import Api

__all__ = ["roles"]

ROLES = "organization/roles"
_SCOPES_SHOWN = 3
SCOPES = click.option(
    "--scope",
    "scopes",
    metavar="SCOPE",
    multiple=True,
    shell_complete=complete_scopes,
    help="What it allows; repeat for several.",
)


@click.group(cls=Group)
def roles() -> None:
    """Roles that your organization makes of scopes."""


@roles.command("list")
@pass_session
def list_roles(session: Session) -> None:
    """List roles. An id is what --role takes when somebody is added."""
    from llmariner.cli.support.output import Column

    document = session.api().all_pages(ROLES)
    columns = [
        Column.of("id"),
        Column.of("name"),
        Column("MADE HERE", lambda each: None if each.get("predefined_role") else "yes"),
        Column("SCOPES", _scopes),
        Column.of("description"),
    ]
    session.printer.records(document, document["data"], columns, empty="No roles.")


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
    session.printer.details(one, fields)


@roles.command()
@click.argument("name")
@SCOPES
@click.option("--description", help="What it is for.")
@pass_session
def create(session: Session, name: str, scopes: tuple[str, ...], description: str | None) -> None:
    """Make a role called NAME. It can hold what you hold."""
    if not scopes:
        raise click.UsageError("A role needs one --scope at least.")
    said = {} if description is None else {"description": description}
    made = session.api().post(ROLES, {"role_name": name, "permissions": list(scopes), **said})
    session.printer.message(made, f"Made role {made.get('name')} ({made.get('id')}).")


@roles.command()
@click.argument("role", metavar="NAME_OR_ID", shell_complete=complete_roles)
@click.option("--new-name", help="What to call it from now on.")
@SCOPES
@click.option("--description", help="What it is for.")
@pass_session
def update(session: Session, role: str, new_name: str | None, scopes: tuple[str, ...], description: str | None) -> None:
    """Change a role for everybody who has it. The scopes that are given take the place of those before."""
    from llmariner.cli.support.api import path_of

    said = {"role_name": new_name, "permissions": list(scopes) or None, "description": description}
    body: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if not body:
        raise click.UsageError("Nothing to change: give --new-name, --scope or --description.")
    api = session.api()
    found = _find(api, role)
    made = api.post(path_of(ROLES, found["id"]), body)
    session.printer.message(made, f"Updated role {made.get('name')} ({found['id']}).")


@roles.command()
@click.argument("role", metavar="NAME_OR_ID", shell_complete=complete_roles)
@pass_session
def delete(session: Session, role: str) -> None:
    """Delete a role that nobody has."""
    from llmariner.cli.support.api import path_of

    api = session.api()
    found = _find(api, role)
    session.printer.message(api.delete(path_of(ROLES, found["id"])), f"Deleted role {found['name']} ({found['id']}).")


def _find(api: Api, role: str) -> dict[str, Any]:
    return find("role", api.all_pages(ROLES)["data"], role, listing="llma admin roles list")


def _scopes(role: Any) -> str:
    scopes = role.get("permissions") or []
    return ", ".join(scopes) if len(scopes) <= _SCOPES_SHOWN else f"{len(scopes)} scopes"
