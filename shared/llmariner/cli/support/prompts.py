"""Interactive prompts for an organization and a project, by number, title or id."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.support.api import ApiClient, build_path
from llmariner.cli.support.configuration import Target
from llmariner.cli.support.errors import CommandError
from llmariner.cli.support.terminal import write_stderr, write_stdout

__all__ = ["prompt_organization", "prompt_project"]

Record = dict[str, Any]


def prompt_organization(target: Target, current: str) -> str:
    """The chosen id; empty for the default organization. Any input where the platform lists none."""
    return _prompt("organization", _fetch(target, "organizations"), current)


def prompt_project(target: Target, organization: str, current: str) -> str:
    """As `prompt_organization`, for the projects of an organization (empty: the default one, else the first)."""
    if not organization:
        found = _fetch(target, "organizations")
        default = [each for each in found if each.get("is_default")] or found[:1]
        organization = str(default[0]["id"]) if default else ""
    records = _fetch(target, "organizations", organization, "projects") if organization else []
    return _prompt("project", records, current)


def _fetch(target: Target, *path: str) -> list[Record]:
    """The records of a collection; empty on failure, since a context can be set before a platform or a key exists."""
    try:
        with ApiClient(target, timeout_seconds=10.0) as api:
            found = api.get(build_path(*path))
    except CommandError as failure:
        write_stderr(f"({path[-1]} can't be listed: {failure.message})")
        return []
    records = found.get(path[-1]) or found.get("data") or []
    return [each for each in records if isinstance(each, dict) and each.get("id")]


def _prompt(kind: str, records: list[Record], current: str) -> str:
    for number, record in enumerate(records, 1):
        default = ", the default one" if record.get("is_default") else ""
        write_stdout(f"  {number}  {record.get('title') or record.get('name')}  ({record['id']}{default})")
    accepted = "number, title or id" if records else "title or id"
    while True:
        answer = click.prompt(
            f"{kind.capitalize()} ({accepted}; - for the default one)",
            default=current or "-",
            show_default=bool(current),
        ).strip()
        if answer == "-":
            return ""
        found = _match_choice(records, answer)
        if found is not None:
            return found
        click.echo(f"There is no {kind} '{answer}' among these.")


def _match_choice(records: list[Record], answer: str) -> str | None:
    if not records:
        return answer
    if answer.isdigit() and 1 <= int(answer) <= len(records):
        return str(records[int(answer) - 1]["id"])
    return next(
        (str(each["id"]) for each in records if answer in (each["id"], each.get("title"), each.get("name"))), None
    )
