"""`llma version`."""

from __future__ import annotations

import click

import llmariner
from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.session import Session

__all__ = ["version"]


@click.command(cls=Command)
@pass_session
def version(session: Session) -> None:
    """Print the version of this program."""
    session.printer.print_message({"version": llmariner.__version__}, llmariner.__version__)
