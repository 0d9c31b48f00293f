"""`llma models credentials`: set, list and delete the project's credentials for sources of models."""

from __future__ import annotations

from typing import TextIO

import click

from llmariner.cli.models.create_and_update import api_name
from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.enumerations import enum_value
from llmariner.cli.support.session import Session

__all__ = ["credentials"]

_SOURCES = click.Choice(["hugging-face", "object-store", "ollama"], case_sensitive=False)


@click.group("credentials", cls=Group)
def credentials() -> None:
    """Credentials for private repositories and buckets."""


@credentials.command("set")
@click.argument("name", metavar="NAME")
@click.option("--source-repository", type=_SOURCES, required=True, help="What the credential is for.")
@click.option("--username", metavar="NAME", help="Account of a registry, or access key of a bucket; else a token.")
@click.option(
    "--secret-file",
    metavar="PATH",
    type=click.File(encoding="utf-8"),
    default="-",
    help="Has the secret in its first line; else standard input has.",
)
@pass_session
def set_credential(
    session: Session, name: str, source_repository: str, username: str | None, secret_file: TextIO
) -> None:
    """Set the credential NAME, in place of the one before.

    The secret is no argument, so that it is in no history of a shell and no list of processes.
    """
    body = {"name": name, "source_repository": api_name(source_repository), "secret": secret_file.readline().strip()}
    document = session.api().post("model_credentials", body | ({} if username is None else {"username": username}))
    session.printer.print_message(document, f"Set {name}. `llma models pull ID --credential {name}` uses it.")


@credentials.command("list")
@pass_session
def list_credentials(session: Session) -> None:
    """List the project's credentials."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().get("model_credentials")
    columns = [
        Column.of("id"),
        Column.of("name"),
        Column("SOURCE", lambda each: enum_value(each["source_repository"]).lower().replace("_", "-")),
        Column.of("username"),
        Column("SET", lambda each: format_timestamp(each.get("updated_at"))),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No credentials.")


@credentials.command("delete")
@click.argument("credential", metavar="ID")
@pass_session
def delete_credential(session: Session, credential: str) -> None:
    """Delete a credential. Models that are loaded stay."""
    from llmariner.cli.support.api import build_path

    document = session.api().delete(build_path("model_credentials", credential))
    session.printer.print_message(document, f"Deleted {credential}.")
