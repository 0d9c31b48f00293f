"""`llma auth api-keys`: make, list, rename, rotate and revoke API keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.failures import CommandError, ExitCode
from llmariner.cli.grammar import Group, pass_session
from llmariner.cli.session import Session

if TYPE_CHECKING:
    from llmariner.cli.api import Api

__all__ = ["api_keys"]

DAY_SECONDS = 86_400
_SCOPES_SHOWN = 2
"""More are counted instead: an administrator's key has two dozen."""


@click.group("api-keys", cls=Group)
def api_keys() -> None:
    """Make, list, rename, rotate and revoke API keys."""


@api_keys.command()
@click.argument("name")
@click.option(
    "--expires-in", metavar="DAYS", type=click.FloatRange(min=0, min_open=True), help="Days until it expires."
)
@click.option(
    "--scope",
    "scopes",
    metavar="SCOPE",
    multiple=True,
    help="What it may do; repeat for several. Default: all you may.",
)
@pass_session
def create(session: Session, name: str, expires_in: float | None, scopes: tuple[str, ...]) -> None:
    """Make a key called NAME. Its secret is shown now and never again."""
    target = session.target()
    body: dict[str, Any] = {"name": name}
    if expires_in is not None:
        body["expires_in_seconds"] = max(1, round(expires_in * DAY_SECONDS))
    if scopes:
        body["scopes"] = list(scopes)
    if target.organization:
        body["organization_id"] = target.organization
    if target.project:
        body["project_id"] = target.project
    _show_secret(session, session.api().post("api_keys", body))


@api_keys.command("list")
@pass_session
def list_keys(session: Session) -> None:
    """List keys. Secrets are not among what is listed."""
    from llmariner.cli.printing import Column, moment

    document = session.api().all_pages("api_keys")
    keys = [_without_secret(key) for key in document["data"]]
    columns = [
        Column.of("id"),
        Column.of("name"),
        Column.of("prefix"),
        Column("SCOPES", _scopes),
        Column("CREATED", lambda key: moment(key.get("created_at"))),
        Column("EXPIRES", lambda key: moment(key.get("expires_at")) or "never"),
        Column("LAST USED", lambda key: moment(key.get("last_used_at")) or "never"),
    ]
    session.printer.records({**document, "data": keys}, keys, columns, empty="No API keys.")


@api_keys.command()
@click.argument("key", metavar="NAME_OR_ID")
@pass_session
def delete(session: Session, key: str) -> None:
    """Revoke a key; requests that carry it are refused from now on."""
    from llmariner.cli.api import path_of

    api = session.api()
    found = _find(api, key)
    answer = api.delete(path_of("api_keys", found["id"]))
    session.printer.message(answer, f"Deleted API key {found['name']} ({found['id']}).")


@api_keys.command()
@click.argument("key", metavar="NAME_OR_ID")
@click.option("--new-name", required=True, help="What to call it from now on.")
@pass_session
def update(session: Session, key: str, new_name: str) -> None:
    """Rename a key."""
    from llmariner.cli.api import path_of

    api = session.api()
    found = _find(api, key)
    answer = api.patch(path_of("api_keys", found["id"]), {"name": new_name, "update_mask": "name"})
    session.printer.message(_without_secret(answer), f"Renamed API key {found['name']} ({found['id']}) to {new_name}.")


@api_keys.command()
@click.argument("key", metavar="NAME_OR_ID")
@click.option(
    "--overlap",
    metavar="SECONDS",
    type=click.IntRange(min=0),
    default=0,
    help="How long the old secret stays good (0).",
)
@pass_session
def rotate(session: Session, key: str, overlap: int) -> None:
    """Give a key a new secret. It is shown now and never again."""
    from llmariner.cli.api import path_of

    api = session.api()
    found = _find(api, key)
    _show_secret(session, api.post(path_of("api_keys", found["id"]) + ":rotate", {"overlap_seconds": overlap}))


def _find(api: Api, name_or_id: str) -> dict[str, Any]:
    """The key of that id, else the only one of that name."""
    keys = api.all_pages("api_keys")["data"]
    if named := [key for key in keys if key.get("id") == name_or_id]:
        return dict(named[0])
    named = [key for key in keys if key.get("name") == name_or_id]
    if not named:
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"there is no API key with the name or id {name_or_id!r}.",
            next_step="`llma auth api-keys list` shows the keys you may see.",
        )
    if len(named) > 1:
        ids = ", ".join(str(key["id"]) for key in named)
        raise CommandError(
            ExitCode.USAGE,
            f"{len(named)} API keys are called {name_or_id!r}.",
            next_step=f"give the id: {ids}.",
        )
    return dict(named[0])


def _scopes(key: Mapping[str, Any]) -> str:
    scopes = key.get("scopes") or []
    return ", ".join(scopes) if len(scopes) <= _SCOPES_SHOWN else f"{len(scopes)} scopes"


def _show_secret(session: Session, key: Mapping[str, Any]) -> None:
    """The secret alone on stdout, so that `$(…)` catches it; what to know about it on stderr."""
    session.printer.message(key, str(key.get("secret", "")))
    if session.printer.for_people:
        click.echo(
            f"This is the secret of API key {key.get('name')} ({key.get('id')}). It is not shown again.",
            err=True,
        )


def _without_secret(key: Mapping[str, Any]) -> dict[str, Any]:
    """Upstream's lists carry a masked secret; a server that forgot to mask would leak through us."""
    return {field: value for field, value in key.items() if field != "secret"}
