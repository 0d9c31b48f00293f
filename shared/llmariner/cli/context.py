"""`llma context`: the default endpoint, API key, organization and project of all commands."""

from __future__ import annotations

import sys
from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import complete_organizations, complete_projects
from llmariner.cli.support.session import Session

__all__ = ["context"]


@click.group(cls=Group)
def context() -> None:
    """The endpoint, key, organization and project in use."""


@context.command("get")
@pass_session
def get_context(session: Session) -> None:
    """Show the settings in use, and the source of each."""
    from llmariner.cli.support.configuration import mask_key

    target = session.target()
    key = mask_key(target.api_key.reveal()) if target.api_key_source else None
    fields = {
        "endpoint": target.endpoint,
        "endpoint_source": target.endpoint_source,
        "api_key": None if target.sign_in else key,
        "signed_in_as": target.sign_in.display_name if target.sign_in else None,
        "api_key_source": target.api_key_source,
        "organization": target.organization or None,
        "project": target.project or None,
        "file": str(session.context_file().path),
    }
    session.printer.print_details(fields, fields)


@context.command("set")
@click.option("--endpoint", metavar="URL", help="Base URL of the API, /v1 included.")
@click.option(
    "--api-key",
    metavar="KEY",
    help="API key; `-` reads it from standard input, which keeps it out of the history.",
)
@click.option(
    "--organization",
    metavar="TITLE_OR_ID",
    shell_complete=complete_organizations,
    help="The organization to work in.",
)
@click.option("--project", metavar="TITLE_OR_ID", shell_complete=complete_projects, help="The project to work in.")
@pass_session
def set_context(
    session: Session, endpoint: str | None, api_key: str | None, organization: str | None, project: str | None
) -> None:
    """Store settings in the context file; an empty value removes one.

    Without options it prompts for each.
    """
    file = session.context_file()
    content = file.read()
    given = {"endpoint": endpoint, "api_key": api_key, "organization": organization, "project": project}
    if all(value is None for value in given.values()):
        given = _prompt_settings(session, content)
    if given["api_key"] == "-":
        given["api_key"] = sys.stdin.readline().strip()
    content = _merge_settings(content, given)
    file.write(content)
    session.printer.print_message({"file": str(file.path), "settings": sorted(content)}, f"Stored in {file.path}.")


def _merge_settings(content: dict[str, Any], given: dict[str, str | None]) -> dict[str, Any]:
    from llmariner.cli.support.configuration import same_origin, validate_endpoint

    changes = {name: value for name, value in given.items() if value is not None}
    if endpoint := changes.get("endpoint"):
        changes["endpoint"] = validate_endpoint(endpoint, "--endpoint")
        server_changed = content.get("endpoint") and not same_origin(str(content["endpoint"]), changes["endpoint"])
        if server_changed and content.get("api_key") and "api_key" not in changes:
            changes["api_key"] = ""
            click.echo(
                "The stored API key was for the former endpoint and is removed; set one with --api-key -.",
                err=True,
            )
    return {name: value for name, value in {**content, **changes}.items() if value != ""}


def _prompt_settings(session: Session, content: dict[str, Any]) -> dict[str, str | None]:
    """Prompt for each setting, with the current value as default. The key is neither echoed nor shown."""
    if not sys.stdin.isatty():
        raise click.UsageError("Nothing to set: give --endpoint, --api-key, --organization or --project.")
    from llmariner.cli.support.configuration import resolve_target
    from llmariner.cli.support.prompts import prompt_organization, prompt_project
    from llmariner.settings import environment

    current = str(content.get("endpoint") or "")
    endpoint = click.prompt("Endpoint", default=current, show_default=bool(current))
    key = click.prompt("API key (empty keeps the present one)", default="", hide_input=True, show_default=False)
    # The lists come from the new endpoint without an organization: the stored one may belong to another platform.
    target = resolve_target(environment(), endpoint=endpoint or None).with_project("", "")
    if key:
        target = target.with_key(key)
    elif target.sign_in is not None:
        from llmariner.cli.sign_in.token_refresh import ensure_fresh

        target = target.with_sign_in(ensure_fresh(session.sign_in_file(), target.endpoint, target.sign_in))
    organization = prompt_organization(target, str(content.get("organization") or ""))
    project = prompt_project(target.with_project(organization, ""), organization, str(content.get("project") or ""))
    return {"endpoint": endpoint, "organization": organization, "project": project, "api_key": key or None}
