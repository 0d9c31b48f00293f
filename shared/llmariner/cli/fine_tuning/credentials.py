"""`llma fine-tuning credentials`: set, list and delete the project's credentials for tracking servers."""

from __future__ import annotations

from typing import TextIO

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.session import Session

__all__ = ["credentials"]


@click.group("credentials", cls=Group)
def credentials() -> None:
    """Credentials for MLflow and Weights & Biases."""


@credentials.command("set")
@click.argument("type_", metavar="TYPE", type=click.Choice(["mlflow", "wandb"]))
@click.option("--server", metavar="URL", help="One of the installation's servers; else the first.")
@click.option("--username", metavar="NAME", help="Of mlflow: the secret is its password; else a token.")
@click.option(
    "--secret-file",
    metavar="PATH",
    type=click.File(encoding="utf-8"),
    default="-",
    help="Has the secret in its first line; else standard input has.",
)
@pass_session
def set_credential(session: Session, type_: str, server: str | None, username: str | None, secret_file: TextIO) -> None:
    """Set the credential for a server, in place of the one before. TYPE: mlflow, wandb.

    The secret is no argument, so that it is in no history of a shell and no list of processes.
    """
    body = {"type": type_, "secret": secret_file.readline().strip(), "server": server, "username": username}
    document = session.api().post(
        "fine_tuning/credentials", {name: value for name, value in body.items() if value is not None}
    )
    session.printer.print_message(document, f"Set {document['id']} for {document['server']}.")


@credentials.command("list")
@pass_session
def list_credentials(session: Session) -> None:
    """List for which servers the project has a credential."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().get("fine_tuning/credentials")
    columns = [
        Column.of("id"),
        Column.of("type"),
        Column.of("server"),
        Column.of("username"),
        Column("SET", lambda each: format_timestamp(each.get("updated_at"))),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No credentials.")


@credentials.command("delete")
@click.argument("credential", metavar="ID")
@pass_session
def delete_credential(session: Session, credential: str) -> None:
    """Delete a credential."""
    from llmariner.cli.support.api import build_path

    document = session.api().delete(build_path("fine_tuning", "credentials", credential))
    session.printer.print_message(document, f"Deleted {credential}.")
