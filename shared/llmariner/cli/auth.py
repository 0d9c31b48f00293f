"""`llma auth`: the key in use, and the keys there are."""

from __future__ import annotations

import click

from llmariner.cli.api_keys import api_keys
from llmariner.cli.failures import CommandError, ExitCode
from llmariner.cli.grammar import Group, pass_session
from llmariner.cli.session import Session

__all__ = ["auth"]


@click.group(cls=Group)
def auth() -> None:
    """The API key in use, and API keys in general."""


auth.add_command(api_keys)


@auth.command()
@click.option(
    "--show",
    is_flag=True,
    help="Print the whole key, for `export LLMARINER_API_KEY=$(llma auth token --show)`.",
)
@pass_session
def token(session: Session, show: bool) -> None:
    """Print the API key in use, masked unless --show."""
    from llmariner.cli.configuration import masked

    target = session.target()
    if target.api_key_source is None:
        raise CommandError(
            ExitCode.DENIED,
            f"there is no API key for {target.endpoint}.",
            next_step="set LLMARINER_API_KEY, or store one with `llma context set --api-key -`.",
        )
    key = target.api_key.reveal() if show else masked(target.api_key.reveal())
    session.printer.message({"api_key": key, "source": target.api_key_source, "endpoint": target.endpoint}, key)
    if session.printer.for_people and not show:
        click.echo(f"from {target.api_key_source}, for {target.endpoint}", err=True)
