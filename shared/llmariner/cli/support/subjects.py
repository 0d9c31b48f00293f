"""The options for the subject of a limit or budget: the organization, a project, a user or a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmariner.cli.support.errors import CommandError
from llmariner.cli.support.resolvers import (
    complete_emails,
    complete_keys,
    complete_projects,
    find_record,
    resolve_organization,
    resolve_project,
)
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.api import ApiClient

__all__ = ["display_names", "resolve_subject", "subject_label", "subject_options"]

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--project", metavar="TITLE_OR_ID", shell_complete=complete_projects, help="That project."),
    click.option("--user", metavar="EMAIL_OR_ID", shell_complete=complete_emails, help="That user, in all projects."),
    click.option("--key", metavar="NAME_OR_ID", shell_complete=complete_keys, help="That API key."),
)


def subject_options(command: CommandFunction) -> CommandFunction:
    """Add `--project`, `--user` and `--key`; without any, the subject is the organization."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def resolve_subject(
    session: Session, api: ApiClient, selected: tuple[str | None, str | None, str | None]
) -> dict[str, str]:
    """The fields `subject` and `subject_id` of the selected project, user or key. UsageError for several, CommandError."""
    if sum(each is not None for each in selected) > 1:
        raise click.UsageError("Name one of --project, --user and --key, or none for the whole organization.")
    project_name, user, key = selected
    if project_name is not None:
        return {"subject": "project", "subject_id": resolve_project(session, api, project_name, None)["id"]}
    if user is not None:
        users = [{**each, "id": each["internal_id"], "email": each["id"]} for each in api.get("users")["users"]]
        found = find_record("user", users, user, listing="llma admin users list")
        return {"subject": "user", "subject_id": str(found["id"])}
    if key is not None:
        found = find_record("API key", api.get("api_keys")["data"], key, listing="llma auth api-keys list")
        return {"subject": "key", "subject_id": str(found["id"])}
    return {"subject": "organization", "subject_id": str(resolve_organization(session, api, None)["id"])}


def display_names(session: Session, api: ApiClient) -> dict[str, str]:
    """Id → title, e-mail or name, without those that the caller may not list."""
    names: dict[str, str] = {}
    try:
        organization = resolve_organization(session, api, None)
        names[organization["id"]] = organization["title"]
        listed = api.get(f"organizations/{organization['id']}/projects")["projects"]
        names |= {each["id"]: each["title"] for each in listed}
        names |= {each["internal_id"]: each["id"] for each in api.get("users")["users"]}
        names |= {each["id"]: each["name"] for each in api.get("api_keys")["data"]}
    except CommandError:
        pass  # the id is shown instead
    return names


def subject_label(names: dict[str, str]) -> Callable[[Any], str]:
    """A cell function for the subject of a record, such as `project Vision`."""
    return lambda each: f"{each.get('subject')} {names.get(str(each.get('subject_id')), each.get('subject_id'))}"
