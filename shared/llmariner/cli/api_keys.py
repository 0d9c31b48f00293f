"""`llma auth api-keys`: create, list, update, rotate and revoke API keys."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import (
    complete_assignable_roles,
    complete_keys,
    complete_projects,
    complete_scopes,
    find_record,
    organization_option,
    resolve_project,
)
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import write_stderr

if TYPE_CHECKING:
    from llmariner.cli.support.api import ApiClient

__all__ = ["api_keys"]

DAY_SECONDS = 86_400
_MAX_SCOPES_SHOWN = 2
"""Above this number of scopes a table shows the count instead: an administrator's key has about 24."""


@click.group("api-keys", cls=Group)
def api_keys() -> None:
    """Create, list, update, rotate and revoke API keys."""


PROJECT_OPTION = click.option(
    "-p",
    "--project-title",
    metavar="PROJECT",
    shell_complete=complete_projects,
    help="Title or id of the project; else that of the context, or your own.",
)
_REPLACES_HELP = "Replaces the present ones; repeat for several."
KEY_ARGUMENT = click.argument("key", metavar="NAME_OR_ID", shell_complete=complete_keys)


@api_keys.command()
@click.argument("name")
@organization_option
@PROJECT_OPTION
@click.option("--service-account", is_flag=True, help="For a service account of that name, which is created with it.")
@click.option(
    "--role",
    metavar="ROLE",
    shell_complete=complete_assignable_roles,
    help="Of the service account: owner, reader or tenant-system.",
)
@click.option(
    "--expires-in", metavar="DAYS", type=click.FloatRange(min=0, min_open=True), help="Days until it expires."
)
@click.option(
    "--scope",
    "scopes",
    metavar="SCOPE",
    multiple=True,
    shell_complete=complete_scopes,
    help="Permission of the key; repeat for several. Default: all of yours.",
)
@click.option(
    "--model", "models", metavar="ID", multiple=True, help="Model that it may use; repeat for several. Default: all."
)
@click.option(
    "--source",
    "sources",
    metavar="NETWORK",
    multiple=True,
    help="Client network, as 10.0.0.0/8; repeat for several. Default: any.",
)
@pass_session
def create(
    session: Session,
    name: str,
    organization_title: str | None,
    project_title: str | None,
    service_account: bool,
    role: str | None,
    expires_in: float | None,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    sources: tuple[str, ...],
) -> None:
    """Create a key called NAME. Its secret is shown only once."""
    if service_account != (role is not None):
        raise click.UsageError("--service-account and --role go together.")
    lists = {"scopes": scopes, "allowed_models": models, "allowed_sources": sources}
    body: dict[str, Any] = {"name": name, **{field: list(values) for field, values in lists.items() if values}}
    if service_account:
        body |= {"is_service_account": True, "role": role}
    if expires_in is not None:
        body["expires_in_seconds"] = max(1, round(expires_in * DAY_SECONDS))
    api = session.api()
    body |= _project_ids(session, api, organization_title, project_title) or {}
    _show_secret(session, api.post("api_keys", body))


@api_keys.command("list")
@organization_option
@PROJECT_OPTION
@pass_session
def list_keys(session: Session, organization_title: str | None, project_title: str | None) -> None:
    """List keys, for owners those of others too, without secrets."""
    from llmariner.cli.support.output import Column, format_timestamp

    api = session.api()
    document = api.all_pages(_collection(_project_ids(session, api, organization_title, project_title)))
    keys = [_without_secret(key) for key in document["data"]]
    columns = [
        Column.of("id"),
        Column.of("name"),
        Column.of("prefix"),
        Column("USER", lambda key: (key.get("user") or {}).get("id")),
        Column("PROJECT", lambda key: (key.get("project") or {}).get("title")),
        Column("SCOPES", _scopes),
        Column("CREATED", lambda key: format_timestamp(key.get("created_at"))),
        Column("EXPIRES", lambda key: format_timestamp(key.get("expires_at")) or "never"),
        Column("LAST USED", lambda key: format_timestamp(key.get("last_used_at")) or "never"),
    ]
    session.printer.print_records({**document, "data": keys}, keys, columns, empty="No API keys.")


@api_keys.command()
@KEY_ARGUMENT
@organization_option
@PROJECT_OPTION
@pass_session
def delete(session: Session, key: str, organization_title: str | None, project_title: str | None) -> None:
    """Revoke a key; requests with it are refused from now on."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    collection = _collection(_project_ids(session, api, organization_title, project_title))
    found = _find(api, key, collection)
    answer = api.delete(build_path(collection, found["id"]))
    session.printer.print_message(answer, f"Deleted API key {found['name']} ({found['id']}).")


@api_keys.command()
@KEY_ARGUMENT
@organization_option
@PROJECT_OPTION
@click.option("--new-name", help="New name.")
@click.option("--expires-in", metavar="DAYS", type=click.FloatRange(min=0, min_open=True), help="From now on.")
@click.option("--scope", "scopes", metavar="SCOPE", multiple=True, shell_complete=complete_scopes, help=_REPLACES_HELP)
@click.option("--model", "models", metavar="ID", multiple=True, help=_REPLACES_HELP)
@click.option("--source", "sources", metavar="NETWORK", multiple=True, help=_REPLACES_HELP)
@pass_session
def update(
    session: Session,
    key: str,
    organization_title: str | None,
    project_title: str | None,
    new_name: str | None,
    expires_in: float | None,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    sources: tuple[str, ...],
) -> None:
    """Rename a key, or change its permissions.

    Also its expiry, and its client networks.
    """
    from llmariner.cli.support.api import build_path

    lists = {"scopes": scopes, "allowed_models": models, "allowed_sources": sources}
    body: dict[str, Any] = {} if new_name is None else {"name": new_name}
    body |= {field: list(values) for field, values in lists.items() if values}
    if expires_in is not None:
        body["expires_at"] = int(time.time()) + max(1, round(expires_in * DAY_SECONDS))
    if not body:
        raise click.UsageError("Nothing to change: give --new-name, --expires-in, --scope, --model or --source.")
    api = session.api()
    found = _find(api, key, _collection(_project_ids(session, api, organization_title, project_title)))
    answer = api.patch(build_path("api_keys", found["id"]), {**body, "update_mask": ",".join(body)})
    what = f"API key {found['name']} ({found['id']})"
    message = f"Renamed {what} to {new_name}." if body.keys() == {"name"} else f"Updated {what}."
    session.printer.print_message(_without_secret(answer), message)


@api_keys.command()
@KEY_ARGUMENT
@organization_option
@PROJECT_OPTION
@click.option(
    "--overlap",
    metavar="SECONDS",
    type=click.IntRange(min=0),
    default=0,
    help="How long the old secret stays valid (0).",
)
@pass_session
def rotate(session: Session, key: str, organization_title: str | None, project_title: str | None, overlap: int) -> None:
    """Replace the secret of a key. The new one is shown only once."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = _find(api, key, _collection(_project_ids(session, api, organization_title, project_title)))
    _show_secret(session, api.post(build_path("api_keys", found["id"]) + ":rotate", {"overlap_seconds": overlap}))


def _project_ids(
    session: Session, api: ApiClient, organization: str | None, project_name: str | None
) -> dict[str, str] | None:
    """Organization and project id of the given options; None without them, so that the server uses the caller's project."""
    if organization is None and project_name is None:
        return None
    wanted = project_name or session.target().project
    if not wanted:
        raise click.UsageError("--organization-title needs --project-title: a key is of a project.")
    found = resolve_project(session, api, wanted, organization)
    return {"organization_id": found["organization_id"], "project_id": found["id"]}


def _collection(ids: dict[str, str] | None) -> str:
    from llmariner.cli.support.api import build_path

    if ids is None:
        return "api_keys"
    return build_path("organizations", ids["organization_id"], "projects", ids["project_id"], "api_keys")


def _find(api: ApiClient, name_or_id: str, collection: str) -> dict[str, Any]:
    """The key with that id, else the only one with that name."""
    return find_record("API key", api.all_pages(collection)["data"], name_or_id, listing="llma auth api-keys list")


def _scopes(key: Mapping[str, Any]) -> str:
    scopes = key.get("scopes") or []
    return ", ".join(scopes) if len(scopes) <= _MAX_SCOPES_SHOWN else f"{len(scopes)} scopes"


def _show_secret(session: Session, key: Mapping[str, Any]) -> None:
    """Print only the secret on stdout, so that `$(…)` captures it; the note about it goes to stderr."""
    session.printer.print_message(key, str(key.get("secret", "")))
    if session.printer.is_table:
        write_stderr(f"This is the secret of API key {key.get('name')} ({key.get('id')}). It is not shown again.")


def _without_secret(key: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the secret, which upstream's lists contain masked, in case a server does not mask it."""
    return {field: value for field, value in key.items() if field != "secret"}
