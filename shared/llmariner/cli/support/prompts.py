"""Choosing an organisation and a project from those that the platform shows, by number, title or id."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.support.api import Api, path_of
from llmariner.cli.support.configuration import Target
from llmariner.cli.support.errors import CommandError
from llmariner.cli.support.terminal import note

__all__ = ["ask_organization", "ask_project"]

Record = dict[str, Any]


def ask_organization(target: Target, present: str) -> str:
    """The id chosen; empty for the default one. What is typed, where the platform lists none."""
    return _ask("organization", _listed(target, "organizations"), present)


def ask_project(target: Target, organization: str, present: str) -> str:
    """As `ask_organization`, among the projects of an organisation (empty: the default one, or the only one)."""
    if not organization:
        found = _listed(target, "organizations")
        default = [each for each in found if each.get("is_default")] or found[:1]
        organization = str(default[0]["id"]) if default else ""
    listed = _listed(target, "organizations", organization, "projects") if organization else []
    return _ask("project", listed, present)


def _listed(target: Target, *path: str) -> list[Record]:
    """Empty when they can't be had: a context can be set before there is a platform or a key."""
    try:
        with Api(target, answer_seconds=10.0) as api:
            found = api.get(path_of(*path))
    except CommandError as failure:
        note(f"({path[-1]} can't be listed: {failure.message})")
        return []
    records = found.get(path[-1]) or found.get("data") or []
    return [each for each in records if isinstance(each, dict) and each.get("id")]


def _ask(kind: str, records: list[Record], present: str) -> str:
    for number, record in enumerate(records, 1):
        default = ", the default one" if record.get("is_default") else ""
        click.echo(f"  {number}  {record.get('title') or record.get('name')}  ({record['id']}{default})")
    words = "number, title or id" if records else "title or id"
    while True:
        said = click.prompt(
            f"{kind.capitalize()} ({words}; - for the default one)", default=present or "-", show_default=bool(present)
        ).strip()
        if said == "-":
            return ""
        found = _chosen(records, said)
        if found is not None:
            return found
        click.echo(f"There is no {kind} '{said}' among these.")


def _chosen(records: list[Record], said: str) -> str | None:
    if not records:
        return said
    if said.isdigit() and 1 <= int(said) <= len(records):
        return str(records[int(said) - 1]["id"])
    return next(
        (str(each["id"]) for each in records if said in (each["id"], each.get("title"), each.get("name"))), None
    )
