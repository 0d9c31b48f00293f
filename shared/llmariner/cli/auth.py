"""`llma auth`: sign-in, the API key or token in use, and API keys."""

from __future__ import annotations

import json

import click

from llmariner.cli.api_keys import api_keys
from llmariner.cli.sign_in.accept_invite import accept_invite
from llmariner.cli.sign_in.commands import login, logout, status
from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session

__all__ = ["auth"]


@click.group(cls=Group)
def auth() -> None:
    """Sign in and out, and manage API keys."""


for _command in (login, status, logout, accept_invite, api_keys):
    auth.add_command(_command)


@auth.command()
@click.option(
    "--show",
    is_flag=True,
    help="Print it in full, for `export OPENAI_API_KEY=$(llma auth token --show)`.",
)
@click.option("--exec-credential", is_flag=True, help="Print it as kubectl's credential plugins do, for a kubeconfig.")
@pass_session
def token(session: Session, show: bool, exec_credential: bool) -> None:
    """Print the API key or token in use, masked unless --show.

    An expiring token is renewed first.
    """
    from llmariner.cli.support.configuration import mask_key

    target = session.authenticated_target()
    if target.api_key_source is None:
        raise CommandError(
            ExitCode.DENIED,
            f"there is no API key for {target.endpoint}.",
            next_step="sign in with `llma auth login`, set LLMARINER_API_KEY, or `llma context set --api-key -`.",
        )
    if exec_credential:
        credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
        click.echo(json.dumps({**credential, "status": {"token": target.api_key.reveal()}}))
        return
    key = target.api_key.reveal() if show else mask_key(target.api_key.reveal())
    session.printer.print_message({"api_key": key, "source": target.api_key_source, "endpoint": target.endpoint}, key)
    if session.printer.is_table and not show:
        click.echo(f"from {target.api_key_source}, for {target.endpoint}", err=True)
