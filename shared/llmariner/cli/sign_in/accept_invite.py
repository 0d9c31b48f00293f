"""`llma auth accept-invite`: accept an invitation."""

from __future__ import annotations

import sys

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import write_stderr

__all__ = ["accept_invite"]


@click.command("accept-invite", cls=Command)
@click.argument("token")
@pass_session
def accept_invite(session: Session, token: str) -> None:
    """Accept an invitation.

    `-` reads the TOKEN from standard input, which keeps it out of the history.

    On a platform without sign-in, your first key is printed only once: `llma context set --api-key -` stores it.
    """
    value = sys.stdin.readline().strip() if token == "-" else token
    answer = session.api().post("invitations:accept", {"token": value})
    key = answer.get("api_key") or {}
    # Only the key goes to stdout, so that a pipe captures it.
    session.printer.print_message(answer, str(key.get("secret") or "You are in."))
    if session.printer.is_table:
        user = answer.get("user") or {}
        bindings = [*(user.get("organization_role_bindings") or ()), *(user.get("project_role_bindings") or ())]
        write_stderr(f"{user.get('id')} is in {', '.join(str(each.get('title')) for each in bindings)}.")
        write_stderr("This is your key; it is not shown again." if key else "Sign in with `llma auth login`.")
