"""`llma admin projects`: create, list, update and delete projects, and manage their members."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.admin.organizations import member_columns, removed_suffix
from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.enumerations import role_name
from llmariner.cli.support.resolvers import (
    complete_assignable_roles,
    complete_emails,
    complete_projects,
    organization_option,
    resolve_organization,
    resolve_project,
    resolve_role,
)
from llmariner.cli.support.session import Session

__all__ = ["projects"]

TITLE_ARGUMENT = click.argument("title", metavar="TITLE_OR_ID", shell_complete=complete_projects)
NODE_SELECTOR_OPTION = click.option(
    "--node-selector",
    "selectors",
    metavar="KEY=VALUE",
    multiple=True,
    help="Label of the nodes for its workloads; repeat for several. Needs --kubernetes-namespace.",
)
NAMESPACE_OPTION = click.option(
    "-n",
    "--kubernetes-namespace",
    metavar="NAME",
    help="Namespace for its workloads on a cluster; empty: the platform's own.",
)


@click.group(cls=Group)
def projects() -> None:
    """Projects and their members."""


@projects.command()
@click.argument("title")
@organization_option
@NAMESPACE_OPTION
@NODE_SELECTOR_OPTION
@pass_session
def create(
    session: Session,
    title: str,
    organization_title: str | None,
    kubernetes_namespace: str | None,
    selectors: tuple[str, ...],
) -> None:
    """Create a project called TITLE."""
    from llmariner.cli.support.api import build_path

    body: dict[str, Any] = {"title": title, **_assignment_fields(kubernetes_namespace, selectors)}
    api = session.api()
    parent = resolve_organization(session, api, organization_title)
    created = api.post(build_path("organizations", parent["id"], "projects"), body)
    session.printer.print_message(
        created, f"Made project {created.get('title')} ({created.get('id')}) in {parent['title']}."
    )


@projects.command("list")
@organization_option
@pass_session
def list_projects(session: Session, organization_title: str | None) -> None:
    """List the projects of an organization that you can see."""
    from llmariner.cli.support.api import build_path
    from llmariner.cli.support.output import Column, format_timestamp

    api = session.api()
    parent = resolve_organization(session, api, organization_title)
    document = api.get(build_path("organizations", parent["id"], "projects"), include_summary="true")
    columns = [
        Column.of("id"),
        Column.of("title"),
        Column("DEFAULT", lambda each: "yes" if each.get("is_default") else None),
        Column("NAMESPACE", _namespaces),
        Column("PEOPLE", lambda each: (each.get("summary") or {}).get("user_count"), right=True),
        Column("CREATED", lambda each: format_timestamp(each.get("created_at"))),
    ]
    empty = f"There is no project in {parent['title']} that you can see."
    session.printer.print_records(document, document["projects"], columns, empty=empty)


@projects.command("get")
@TITLE_ARGUMENT
@organization_option
@pass_session
def get_project(session: Session, title: str, organization_title: str | None) -> None:
    """Show one project."""
    from llmariner.cli.support.output import format_timestamp

    one = resolve_project(session, session.api(), title, organization_title)
    fields = {
        "id": one["id"],
        "title": one["title"],
        "organization": one.get("organization_id"),
        "default": "yes" if one.get("is_default") else "no",
        "namespace": _namespaces(one),
        "node selector": _selectors(one),
        "created": format_timestamp(one.get("created_at")),
    }
    session.printer.print_details(one, fields)


@projects.command()
@TITLE_ARGUMENT
@organization_option
@pass_session
def delete(session: Session, title: str, organization_title: str | None) -> None:
    """Delete a project that has no models.

    Its memberships, service accounts and keys are deleted, too.
    """
    api = session.api()
    found = resolve_project(session, api, title, organization_title)
    answer = api.delete(_path(found))
    session.printer.print_message(answer, f"Deleted project {found['title']} ({found['id']}){removed_suffix(answer)}.")


@projects.command()
@TITLE_ARGUMENT
@organization_option
@click.option("--new-title", help="New title.")
@NAMESPACE_OPTION
@NODE_SELECTOR_OPTION
@pass_session
def update(
    session: Session,
    title: str,
    organization_title: str | None,
    new_title: str | None,
    kubernetes_namespace: str | None,
    selectors: tuple[str, ...],
) -> None:
    """Rename a project, or change where its workloads run."""
    body: dict[str, Any] = {} if new_title is None else {"title": new_title}
    if kubernetes_namespace is not None or selectors:
        body["assignments"] = _assignments(kubernetes_namespace, selectors)
    if not body:
        raise click.UsageError("Nothing to change: give --new-title, --kubernetes-namespace or --node-selector.")
    api = session.api()
    found = resolve_project(session, api, title, organization_title)
    answer = api.patch(_path(found), {**body, "update_mask": ",".join(body)})
    session.printer.print_message(answer, f"Updated project {answer.get('title')} ({found['id']}).")


@projects.command("add-member")
@TITLE_ARGUMENT
@organization_option
@click.option("--email", required=True, shell_complete=complete_emails, help="Member of the organization to add.")
@click.option(
    "--role",
    required=True,
    metavar="ROLE",
    shell_complete=complete_assignable_roles,
    help="owner, member, viewer, or a custom role.",
)
@pass_session
def add_member(session: Session, title: str, organization_title: str | None, email: str, role: str) -> None:
    """Add a member of the organization to a project."""
    api = session.api()
    found = resolve_project(session, api, title, organization_title)
    created = api.post(_path(found, "users"), {"user_id": email, "role": resolve_role(api, role)})
    session.printer.print_message(
        created, f"Added {created.get('user_id')} to {found['title']} as {role_name(created)}."
    )


@projects.command("list-members")
@TITLE_ARGUMENT
@organization_option
@pass_session
def list_members(session: Session, title: str, organization_title: str | None) -> None:
    """List the members of a project."""
    api = session.api()
    document = api.get(_path(resolve_project(session, api, title, organization_title), "users"))
    session.printer.print_records(document, document["users"], member_columns(), empty="Nobody is in it.")


@projects.command("remove-member")
@TITLE_ARGUMENT
@organization_option
@click.option("--email", required=True, shell_complete=complete_emails, help="Member to remove.")
@pass_session
def remove_member(session: Session, title: str, organization_title: str | None, email: str) -> None:
    """Remove a member from a project and revoke their keys in it."""
    api = session.api()
    found = resolve_project(session, api, title, organization_title)
    answer = api.delete(_path(found, "users", email))
    session.printer.print_message(answer, f"Removed {email} from {found['title']}{removed_suffix(answer)}.")


def _path(found: dict[str, Any], *more: str) -> str:
    from llmariner.cli.support.api import build_path

    return build_path("organizations", found["organization_id"], "projects", found["id"], *more)


def _assignment_fields(namespace: str | None, selectors: tuple[str, ...]) -> dict[str, Any]:
    """The request fields of the given options: a namespace, or an assignment if nodes are selected."""
    if selectors:
        return {"assignments": _assignments(namespace, selectors)}
    return {"kubernetes_namespace": namespace} if namespace else {}


def _assignments(namespace: str | None, selectors: tuple[str, ...]) -> list[dict[str, Any]]:
    if not namespace:
        if selectors:
            raise click.UsageError("--node-selector needs --kubernetes-namespace.")
        return []
    pairs = []
    for selector in selectors:
        key, equals, value = selector.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--node-selector must be KEY=VALUE, not {selector!r}.")
        pairs.append({"key": key, "value": value})
    return [{"namespace": namespace, **({"node_selector": pairs} if pairs else {})}]


def _namespaces(one: Any) -> str:
    assigned = [each["namespace"] for each in one.get("assignments") or ()]
    return ", ".join(assigned) or str(one.get("kubernetes_namespace") or "")


def _selectors(one: Any) -> str:
    labels = (label for each in one.get("assignments") or () for label in each.get("node_selector") or ())
    return ", ".join(f"{label['key']}={label['value']}" for label in labels)
